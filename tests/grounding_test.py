"""The grounding host: its model, its data set, its measures, a run with a page."""

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import grounding as host
from attnjax.nn import running
from configs import ground as config
from experiments import build, data, errors, run
from experiments.data import drawing, grounding
from experiments.training import measures
from tests.data import pure
from tests.pages import check_alone

_SIZES = {"channels": 3, "sentence_width": 5, "outputs": 2}


def _model(*layers, **changes):
  builds = [
    contract.constructor("sentence_attention", options, host.FORMS)
    for options in layers or ({},)
  ]
  options: Any = _SIZES | {"dims": (3, 4)} | changes
  return host.Model(builds, **options, rngs=nnx.Rngs(0))


def _convolved(x, kernel, stride):
  """Returns a convolution of 3 x 3, window by window, as XLA's "SAME" places them."""
  H, W = x.shape[:2]
  out = np.zeros((-(-H // stride), -(-W // stride), kernel.shape[3]))
  before = [max((n - 1) * stride + 3 - m, 0) // 2 for n, m in zip(out.shape, (H, W))]
  for i, j in np.ndindex(*out.shape[:2]):
    for a, b in np.ndindex(3, 3):
      r, c = i * stride + a - before[0], j * stride + b - before[1]
      if 0 <= r < H and 0 <= c < W:
        out[i, j] += x[r, c] @ kernel[a, b]
  return out


class HostTest(absltest.TestCase):
  def test_stages_are_convolutions_by_hand(self):
    stage = host.Stage(2, 3, 2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 2)).astype(np.float32)
    y = x.astype(np.float64)
    for number, conv in enumerate(stage.convs):
      kernel = np.asarray(conv.kernel[...], np.float64)
      y = np.stack([_convolved(one, kernel, 1 if number else 2) for one in y])
      y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
      y = np.maximum(y, 0)
    call = jax.jit(lambda s, x: s(x, stats=running.init_stats(s), train=True)[0])
    np.testing.assert_allclose(call(stage, jnp.asarray(x)), y, atol=1e-5, rtol=1e-5)

  def test_maps_of_any_size_and_every_parameter_has_a_gradient(self):
    model = _model({"gate": "sigmoid"}, {"expansion": 2})
    kinds = [(layer.gate, layer.inner.kernel.shape) for layer in model.decoder.layers]
    self.assertEqual(kinds, [("sigmoid", (5, 20)), ("softmax", (5, 10))])
    images, text = jax.random.normal(jax.random.key(0), (3, 9, 7, 3)), jnp.ones((3, 5))
    stats = running.init_stats(model)

    @jax.jit
    def slopes(model):
      def loss(model):
        given: Any = {"stats": stats, "train": True, "key": jax.random.key(1)}
        y, _ = model(images, text * jnp.arange(1.0, 4)[:, None], **given)
        return jnp.sum(jnp.sin(y)), y

      return jax.grad(loss, has_aux=True)(model)

    found, y = slopes(model)
    self.assertEqual((y.shape, y.dtype), ((3, 9, 7, 2), jnp.float32))
    for path, slope in jax.tree_util.tree_leaves_with_path(found):
      self.assertTrue((slope != 0).any(), jax.tree_util.keystr(path))
    for sides in ((1, 1), (65, 2)):
      shape: Any = jax.ShapeDtypeStruct((2, *sides, 3), jnp.float32)
      y = jax.eval_shape(lambda x: model(x, text[:2], stats=stats)[0], shape)
      self.assertEqual(y.shape, (2, *sides, 2))

  def test_dropout_reaches_the_head(self):
    for given, rate in (({"dropout": 0.25}, 0.25), ({}, 0.5)):
      model: Any = jax.eval_shape(lambda given=given: _model(**given))
      self.assertEqual(model.decoder.dropout, rate)

  def test_errors_name_value_and_rule(self):
    with self.assertRaisesRegex(ValueError, "convolutions = 0: at least 1"):
      _model(convolutions=0)

    def other(dims, *, layers, rngs):
      raise AssertionError("not built")

    setattr(other, "module", type("Other", (), {"STREAMS": ("text", "sound")}))  # noqa: B010
    with self.assertRaisesRegex(ValueError, r"streams \['sound', 'text'\].*'image'"):
      host.Model([other], **_SIZES, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(errors.UserError, "forms .*; this host takes cross"):
      build.assemble(config.get_config("dot_product"))


class DataTest(parameterized.TestCase):
  def test_pure_in_seed_split_and_index(self):
    pure.check(self, "answer_grounding", ("image", "sentence", "labels"))

  def test_a_task_is_its_description(self):
    task = data.load("answer_grounding")
    self.assertEqual(
      (task.kind, task.metric), ("image_sentence_maps", "foreground_iou")
    )
    self.assertEqual((task.shape, task.size("outputs")), ((48, 48, 3), 2))
    self.assertEqual(task.size("sentence_width"), 32)
    self.assertEqual([len(task.source(s)) for s in data.SPLITS], [20_000, 500, 500])
    example = task.source("test")[3]
    kinds = {name: (x.shape, str(x.dtype)) for name, x in example.items()}
    self.assertEqual(
      kinds,
      {
        "image": ((48, 48, 3), "float32"),
        "sentence": ((32,), "float32"),
        "labels": ((48, 48), "int32"),
        "phrase": ((), "int32"),
      },
    )
    self.assertBetween(example["image"].min(), 0, 1)
    self.assertLessEqual(example["image"].max(), 1)

  def test_labels_are_the_pixels_of_the_named_shape(self):
    task: Any = data.load("answer_grounding", {"noise": 0.0, "sentence_noise": 0.0})
    source, sentences = task.source("train"), {}
    for i in range(60):
      example = source[i]
      inside, image = example["labels"] > 0, example["image"]
      colour, form = task.decode(example["phrase"]).split()
      (seen,) = np.unique(image[inside], axis=0)
      np.testing.assert_allclose(seen, grounding.COLOURS[colour], rtol=1e-6)
      rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
      size = int(rows[-1] - rows[0] + 1)
      self.assertBetween(size, 9, 15)
      shape = drawing.shape(form, size) > 0
      box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      np.testing.assert_array_equal(box, shape[:, shape.any(0)])
      # One quadrant has it, and each quadrant has another shape.
      self.assertEqual(rows[0] // 24, rows[-1] // 24)
      self.assertEqual(columns[0] // 24, columns[-1] // 24)
      parts = [image[a : a + 24, b : b + 24] for a in (0, 24) for b in (0, 24)]
      shown = {(tuple(p.max((0, 1))), (p > 0.1).any(-1).mean()) for p in parts}
      self.assertLen(shown, 4)
      known = sentences.setdefault(int(example["phrase"]), example["sentence"])
      np.testing.assert_array_equal(example["sentence"], known)
    self.assertLen(sentences, 12)
    other = task.source("test")[0]
    if int(other["phrase"]) in sentences:
      known = sentences[int(other["phrase"])]
      np.testing.assert_array_equal(other["sentence"], known)

  def test_noise(self):
    options = ({"noise": 0.0, "sentence_noise": 0.0}, {})
    plain, noisy = (data.load("answer_grounding", o).source("train") for o in options)
    apart = np.array([noisy[i]["sentence"] - plain[i]["sentence"] for i in range(40)])
    self.assertBetween(apart.std(), 0.09, 0.11)
    one, two = plain[0]["image"], noisy[0]["image"]
    ground = (one == one[..., :1]).all(-1)  # grey 0.1: noise is clipped below -0.1
    apart = two[ground] - one[ground]
    self.assertBetween(apart[apart > 0].std(), 0.05, 0.07)
    np.testing.assert_array_equal(plain[0]["labels"], noisy[0]["labels"])

  @parameterized.parameters(
    ({"side": 15}, "side = 15; it must be at least 16"),
    ({"width": 0}, "width = 0; it must be at least 1"),
    ({"noise": -0.1}, "noise = -0.1; it must be at least 0"),
    ({"sentence_noise": -1.0}, "sentence_noise = -1.0"),
    ({"held_out": 0}, "held_out = 0"),
  )
  def test_errors_name_value_and_rule(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load("answer_grounding", options)


class MeasureTest(absltest.TestCase):
  def test_by_hand(self):
    labels = np.array(
      [[[1, 1, 0], [0, -1, -1]], [[0, 0, 0], [0, 0, 0]], [[2, 0, 0], [0, 0, 0]]]
    )
    found = np.array(
      [[[1, 0, 1], [2, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]]
    )
    # Foregrounds meet in 1 of 4, in 0 of 0 and in 1 of 1 pixels.
    outputs = jax.nn.one_hot(found, 3)
    for name, want in (
      ("foreground_iou", 2 / 5),
      ("foreground_iou_of_images", (1 / 4 + 1) / 2),
    ):
      module = measures.load(name)
      for label in ("labels", "target"):
        sums = jax.jit(module.totals)(outputs, {label: jnp.asarray(labels)})
        sums = {n: float(x) for n, x in sums.items()}
        self.assertAlmostEqual(module.value(sums), want, places=6)
      none = {n: float(x) for n, x in module.totals(
        outputs, {"labels": jnp.full_like(labels, -1)}).items()}  # fmt: skip
      self.assertEqual(module.value(none), 0.0)
      self.assertEqual(measures.sign(name), 1)


class RunTest(absltest.TestCase):
  def test_a_run_leaves_a_page(self):
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    c = config.get_config()
    self.assertEqual(c.attention.gate, "softmax_scaled")
    c.steps, c.log_every, c.eval_every, c.save_every = 2, 1, 2, 2
    c.data.batch, c.data.held_out, c.data.side, c.data.width = 4, 14, 16, 4
    c.model.dims, c.model.convolutions, c.optimizer.warmup = (4, 5), 1, 1
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(run.run(c, workdir), "finished")
    summary = json.loads((workdir / "summary.json").read_text())
    found = summary["metric"], summary["host"]
    self.assertEqual(found, ("foreground_iou", "grounding"))
    names = ["loss", "foreground_iou", "foreground_iou_of_images", "accuracy"]
    self.assertEqual(list(summary["final"]["validation"]), names)
    page = check_alone(self, (workdir / "report.html").read_text())
    alts = [image["alt"] for image in page.all("img")]
    for name in ("input", "output", "target"):
      self.assertEqual(sum(alt.startswith(f"{name} of example") for alt in alts), 12)
    source = data.load("answer_grounding", {"side": 16, "width": 4}).source
    words = grounding.PHRASES[int(source("validation")[0]["phrase"])]
    pattern = rf"input output target “{words}”: foreground iou: [\d.]+"
    self.assertTrue(re.search(pattern, page.text), page.text[:2000])


if __name__ == "__main__":
  absltest.main()
