"""The page of one run, and its pictures."""

import base64
import io
import re
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib import colors
from matplotlib.image import imread

from experiments.errors import UserError
from experiments.pages import charts, page, readable, records, report
from tests import workdirs
from tests.pages import Page, check_alone


class ReportTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "my_run"

  def write(self, *, summary=None, **options):
    made = workdirs.make(self.workdir)
    path = report.write(
      self.workdir, summary=made if summary is None else summary, **options
    )
    self.assertEqual(path, self.workdir / "report.html")
    return check_alone(self, path.read_text())

  def test_numbers_and_settings(self):
    text = self.write().text
    for words in (
      "dot_product · language · kjv",
      "Run my_run, 30 steps, trained for 1m20s, on 1 x cpu",
      "validation loss 2 best validation loss 1.5",
      "best validation bits/byte 2.164",
      "parameters 812k",
      "time a step (median) 250 ms",
      "FLOPs a step 3.21G",
      "temporary memory 3 MiB",
      "tokens/s 14.2k",
      "final train 30 2.1 –",
      "final validation 30 2 2.885",
      "best 20 1.5 2.164",
      "jax 0.11.2",
    ):
      self.assertIn(words, text)
    own = text.index("attention.window 16")
    self.assertLess(own, text.index("optimizer.rate 0.003"))

  def test_curves_of_loss_and_metric(self):
    labels = [svg["aria-label"] for svg in self.write().all("svg")]
    self.assertEqual(
      [label.partition(":")[0] for label in labels],
      ["loss against the step", "bits/byte against the step"],
    )

  def test_text_is_escaped(self):
    sample = '</pre><script src="https:x">&amp; "<b>'
    summary = {"mechanism": "<i>m</i>", "versions": {"<u>": "&lt;"}}
    read = self.write(summary=summary, sample=sample, maps={"<b>": np.ones((1, 2, 2))})
    self.assertIn(sample, read.text)
    self.assertIn("<i>m</i>", read.text)
    self.assertIn("<u> &lt;", read.text)
    self.assertIn("<b>, head 0", read.text)

  def test_predictions(self):
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    predictions = [
      {"image": image, "true": 7, "predicted": p} for image, p in zip(images, (7, 9, 7))
    ]
    read = self.write(predictions=predictions)
    self.assertIn("2 of these 3 are right", read.text)
    self.assertIn("true 7, predicted 9", read.text)
    self.assertIn(
      "an image of class 7, predicted 9", [i["alt"] for i in read.all("img")]
    )
    np.testing.assert_array_equal(pixels(read.all("img")[1]["src"]), images[1])

  def test_attention_of_some_layers_and_heads(self):
    maps = {f"block {i}": np.eye(5)[None].repeat(7, 0) for i in range(9)}
    read = self.write(maps=maps)
    self.assertLen(read.all("img"), 24)
    for words in (
      "6 of 9 layers",
      "4 of 7 heads",
      "block 0, head 0",
      "block 8, head 6",
    ):
      self.assertIn(words, read.text)

  def test_attention_of_a_wrong_shape(self):
    with self.assertRaisesRegex(ValueError, r"'block 0' has the shape \(5, 5\)"):
      self.write(maps={"block 0": np.eye(5)})

  def test_folder_with_nothing_in_it(self):
    self.workdir.mkdir()
    read = check_alone(self, report.write(self.workdir, summary={}).read_text())
    self.assertIn("my_run", read.text)

  def test_folder_that_is_not_there(self):
    with self.assertRaisesRegex(UserError, "cannot write"):
      report.write(self.workdir, summary={})

  def test_settings_that_are_no_json(self):
    workdirs.make(self.workdir)
    (self.workdir / records.CONFIG).write_text("{")
    with self.assertRaisesRegex(UserError, "config.json is not JSON"):
      report.write(self.workdir, summary={})


def pixels(source: str) -> np.ndarray:
  """(H, W, 3) of an inline image."""
  data = base64.b64decode(source.partition(",")[2])
  return (
    (imread(io.BytesIO(data), format="png")[:, :, :3] * 255).round().astype(np.uint8)
  )


def drawn(element: str) -> np.ndarray:
  return pixels(Page(element).all("img")[0]["src"]).astype(int)


class ChartsTest(parameterized.TestCase):
  @parameterized.parameters(*charts.COLORS)
  def test_lines_are_seen_in_both_themes(self, color):
    for paper in ("#ffffff", "#14181c"):
      self.assertIn(paper, page.page("x"))
      light, dark = sorted(map(luminance, (color, paper)), reverse=True)
      self.assertGreaterEqual((light + 0.05) / (dark + 0.05), 3, paper)

  def test_colors_are_those_of_the_page(self):
    chart = charts.curves({"a": [line(1, "train", 2.0), line(2, "train", 1.0)]}, "loss")
    used = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", chart))
    self.assertEqual(used, {charts.COLORS[0], "currentColor", "none"})

  def test_validation_is_thicker_than_train(self):
    lines = [line(s, split, 1 / s) for split in ("train", "validation") for s in (1, 2)]
    chart = charts.curves({"a": lines}, "loss")
    widths = re.findall(rf"stroke: {charts.COLORS[0]};.*?stroke-width: ([\d.]+)", chart)
    self.assertEqual(set(widths), {"2.4"})  # 1 is the default of the element
    self.assertEqual(
      re.findall(r">(train|validation)<", chart), ["train", "validation"]
    )

  def test_legend_has_each_run_once(self):
    lines = [line(s, split, 1 / s) for split in ("train", "validation") for s in (1, 2)]
    chart = charts.curves({"a<b": lines, "c": lines[:2]}, "loss")
    self.assertEqual(re.findall(r">(a&lt;b|c)</text>", chart), ["a&lt;b", "c"])
    Page(chart)

  def test_what_is_not_finite_is_left_out(self):
    lines = [line(1, "train", float("nan")), line(2, "train", float("inf"))]
    self.assertEqual(charts.curves({"a": lines}, "loss"), "")
    self.assertNotIn("nan", charts.curves({"a": [*lines, line(3, "train", 1)]}, "loss"))

  def test_long_logs_make_small_charts(self):
    noise = np.random.default_rng(0).normal(size=20_000)
    lines = [line(s, "train", float(x)) for s, x in enumerate(noise)]
    self.assertLess(len(charts.curves({"a": lines}, "loss")), 40_000)

  def test_brighter_is_more(self):
    shown = drawn(charts.attention(np.array([[0, 0.1], [0.3, 0.6]]), "w")).sum(-1)
    self.assertEqual(np.argsort(shown.ravel()).tolist(), [0, 1, 2, 3])

  def test_negative_weights_are_red(self):
    (red, _, blue), zero, (red_, _, blue_) = drawn(
      charts.attention(np.array([[-0.5, 0.0, 0.5]]), "w")
    )[0]
    self.assertGreater(red, blue)
    self.assertLess(red_, blue_)
    self.assertGreater(zero.min(), 240)

  def test_long_sequences_are_averaged(self):
    weights = np.zeros((600, 3))
    weights[:300] = 1.0
    shown = drawn(charts.attention(weights, "w"))
    self.assertEqual(shown.shape, (200, 3, 3))
    self.assertLen(np.unique(shown.reshape(-1, 3), axis=0), 2)

  def test_normalized_image_is_stretched(self):
    shown = drawn(charts.picture(np.array([[-2.0, 0.0], [1.0, 2.0]]), "i"))
    self.assertEqual(shown[:, :, 0].tolist(), [[0, 128], [191, 255]])

  def test_image_of_a_wrong_shape(self):
    with self.assertRaisesRegex(ValueError, r"\(2, 2, 4\); it must be \(H, W"):
      charts.picture(np.zeros((2, 2, 4)), "i")


class ReadableTest(parameterized.TestCase):
  @parameterized.parameters(
    (readable.count, 14200, "14.2k"),
    (readable.count, 999950, "1M"),
    (readable.count, 7, "7"),
    (readable.size, 1572864, "1.5 MiB"),
    (readable.size, 1023.9, "1 KiB"),
    (readable.duration, 0.0123, "12.3 ms"),
    (readable.duration, 59.96, "1m00s"),
    (readable.duration, 80, "1m20s"),
    (readable.duration, 3600, "1h00m"),
    (readable.duration, 90000, "1d01h"),
    (readable.number, 1.93456, "1.935"),
    (readable.number, 12345, "12,345"),
    (readable.number, 1e-5, "1.000e-05"),
    (readable.number, float("nan"), "nan"),
    (readable.name, "bits_per_byte", "bits/byte"),
    (readable.name, "tokens_per_second", "tokens/s"),
  )
  def test_form(self, form, value, want):
    self.assertEqual(form(value), want)


def line(step: int, split: str, loss: float) -> dict:
  return {"step": step, "split": split, "loss": loss}


def luminance(color: str) -> float:
  """Relative luminance as WCAG 2 defines it."""
  c = np.array(colors.to_rgb(color))
  linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])


if __name__ == "__main__":
  absltest.main()
