"""Runs on images with maps: they go on where they stopped, and leave a page."""

import contextlib
import io
import json
import os
import signal
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from configs import heatmap, restore, segment
from experiments import build, configuration, errors, run
from experiments.pages import charts, report
from experiments.pages.shows import image_maps
from experiments.training import metrics
from experiments.training.progress import Progress
from tests.pages import check_alone
from tests.report_test import pixels


def tiny():
  c = restore.get_config("dot_product")
  c.steps, c.log_every, c.eval_every, c.save_every = 4, 1, 2, 2
  c.data.batch, c.data.held_out, c.eval_batches = 2, 14, 1
  c.data.side, c.data.photographs = 16, 0.0
  c.model.dims, c.model.depths, c.model.width = (8,), (1,), 4
  c.attention.heads, c.optimizer.warmup = 2, 1
  return c


class RunTest(absltest.TestCase):
  def test_stops_goes_on_and_leaves_a_page(self):
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    original = Progress.update

    def stopping(progress, step, **numbers):
      original(progress, step, **numbers)
      if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)

    for update, outcome in ((stopping, "stopped"), (original, "finished")):
      with mock.patch.object(Progress, "update", update):
        with contextlib.redirect_stdout(io.StringIO()):
          self.assertEqual(run.run(tiny(), workdir), outcome)
    steps = [x["step"] for x in metrics.read(workdir) if x["split"] == "train"]
    self.assertEqual(steps, [1, 2, 3, 4])
    summary = json.loads((workdir / "summary.json").read_text())
    self.assertEqual((summary["metric"], summary["host"]), ("psnr", "unet"))
    self.assertEqual(list(summary["final"]["validation"]), ["loss", "psnr", "ssim"])
    self._check_page((workdir / report.FILE).read_text())

  def _check_page(self, text):
    page = check_alone(self, text)
    self.assertIn("Inputs, outputs and targets", page.text)
    alts = [image["alt"] for image in page.all("img")]
    for name in ("input", "output", "target"):
      self.assertEqual(sum(alt.startswith(f"{name} of example") for alt in alts), 12)
    words = r"input output target psnr: [\d.]+ → [\d.]+, ssim: [\d.]+ → "
    self.assertRegex(page.text, words)
    self.assertIn("Before an arrow stand those of the input", page.text)
    self.assertIn("attention weights of block 0, head 0", alts)
    charts = [chart["aria-label"] for chart in page.all("svg")]
    self.assertIn("ssim against the step: run", charts)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(heatmap, restore, segment)
  def test_assembles(self, config):
    made = config.get_config()
    made.model.dims, made.model.depths = (32,), (1,)  # quicker
    assembly = build.assemble(made)
    self.assertLess(assembly.parameters(), 1e6)
    self.assertEqual(made.host, "unet")
    self.assertEqual(made.model.get("residual"), config is restore)

  def test_the_first_host_that_takes_all_mechanisms(self):
    def of(mechanisms, *hosts):
      return configuration.host_of(mechanisms, *hosts)

    self.assertEqual(of("halo", "dense", "backbone", "unet"), "backbone")
    self.assertEqual(of("halo,dot_product", "dense", "backbone", "unet"), "unet")
    self.assertEqual(of("halo", "language", "dense"), "dense")

  def test_classes_and_images_do_not_mix(self):
    config = configuration.default("dot_product", host="vision", dataset="heat_maps")
    with self.assertRaisesRegex(errors.UserError, "takes images; .* holds image_maps"):
      build.assemble(config)


class PicturesTest(absltest.TestCase):
  def test_classes_have_colours(self):
    found = image_maps.picture(np.array([[0, 1, -1], [8, 9, 0]]))
    first = [int(charts.COLORS[0][i : i + 2], 16) for i in (1, 3, 5)]
    last = [int(charts.COLORS[7][i : i + 2], 16) for i in (1, 3, 5)]
    want = [[[0] * 3, first, [255] * 3], [last, first, [0] * 3]]
    np.testing.assert_array_equal(found, want)

  def test_floats_are_clipped_and_not_stretched(self):
    grey = image_maps.picture(np.array([[[0.2], [1.4], [-3.0]]]))
    np.testing.assert_array_equal(grey, [[[51] * 3, [255] * 3, [0] * 3]])
    three = image_maps.picture(np.array([[[0.0, 0.2, 1.0]]]))
    np.testing.assert_array_equal(three, [[[0, 51, 255]]])
    two = image_maps.picture(np.array([[[0.5, 0.0], [0.0, 9.0]]]))
    colours = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in charts.COLORS[:2]]
    np.testing.assert_allclose(two[0, 0], np.array(colours[0]) / 2, atol=1)
    np.testing.assert_array_equal(two[0, 1], colours[1])

  def test_a_row_has_the_class_of_the_largest_logit(self):
    example = {"image": np.full((1, 2, 1), 0.2), "target": np.array([[0, 1]])}
    output = np.array([[[3.0, 4.0], [2.0, -1.0]]])
    found = image_maps.row(example, output, [{"loss": 1.0, "mean_iou": 0.5}])
    self.assertEqual(found["caption"], "mean iou: 0.5")
    self.assertEqual(list(found["pictures"]), ["input", "output", "target"])
    output, target = found["pictures"]["output"], found["pictures"]["target"]
    np.testing.assert_array_equal(output, target[:, ::-1])

  def test_the_page_keeps_pixels(self):
    with tempfile.TemporaryDirectory() as folder:
      picture = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
      row = {"pictures": {"input": picture}, "caption": "<b> 3"}
      path = report.write(folder, summary={}, rows=[row])
      page = check_alone(self, path.read_text())
    self.assertIn("<b> 3", page.text)
    np.testing.assert_array_equal(pixels(page.all("img")[0]["src"]), picture)


if __name__ == "__main__":
  absltest.main()
