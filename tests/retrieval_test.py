"""The retrieval host: its model, its data set, loss and measures, runs with a page."""

import contextlib
import io
import json
import math
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import retrieval
from attnjax.variants.cross import xpool
from configs import retrieval as config
from experiments import build, configuration, data, errors, run
from experiments.training import measures
from experiments.training.objectives import info_nce
from tests.pages import check_alone


def _model(**changes):
  options = {"text_width": 5, "frame_width": 7, "dim": 8} | changes
  build = contract.constructor("xpool", {"heads": 2}, retrieval.FORMS)
  return retrieval.Model([build], **options, rngs=nnx.Rngs(0))


class HostTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    draw = np.random.default_rng(0).standard_normal
    cls.text = jnp.asarray(draw((4, 5)), jnp.float32)
    cls.frames = jnp.asarray(draw((3, 6, 7)), jnp.float32)
    cls.valid = jnp.arange(6) < jnp.array([[6], [2], [4]])

  def test_logits_are_scores_of_towers(self):
    model, whole = _model(tile=2), _model()
    call = jax.jit(lambda m, *x: m(*x))
    got = call(model, self.text, self.frames)
    one, two = (
      layer(x) for x, layer in ((self.text, model.text), (self.frames, model.frames))
    )
    want = model.scorer(one, two) / 0.07
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    same = call(whole, self.text, self.frames)
    np.testing.assert_allclose(got, same, rtol=1e-4, atol=1e-4)
    self.assertEqual((model.scorer.heads, model.tile), (2, 2))

  def test_padding_is_seen_by_nobody(self):
    model = _model()

    @jax.jit
    def slopes(model, frames):
      def loss(model, frames):
        y = model(self.text, frames, valid=self.valid)
        return jnp.sum(jnp.sin(y)), y

      return jax.grad(loss, (0, 1), has_aux=True)(model, frames)

    want, found = (
      slopes(model, jnp.where(self.valid[..., None], self.frames, value))
      for value in (0.0, jnp.nan)
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)
    shares = model.weigh(self.text, self.frames, valid=self.valid)
    self.assertEqual(shares.shape, (3, 2, 4, 6))
    np.testing.assert_allclose(shares.sum(-1), np.ones((3, 2, 4)), rtol=1e-5)
    self.assertFalse(np.asarray(shares)[1, ..., 2:].any())

  def test_every_parameter_has_a_gradient(self):
    def loss(model):
      return jnp.sum(jnp.sin(model(self.text, self.frames, key=jax.random.key(0))))

    found = jax.jit(jax.grad(loss))(_model())
    for path, slope in jax.tree_util.tree_leaves_with_path(found):
      self.assertTrue((slope != 0).any(), jax.tree_util.keystr(path))

  def test_errors_name_value_and_rule(self):
    with self.assertRaisesRegex(ValueError, "tile = -1; it must be at least 0"):
      _model(tile=-1)
    with self.assertRaisesRegex(ValueError, "2 mechanisms: retrieval has one scorer"):
      sizes = {"text_width": 5, "frame_width": 7}
      retrieval.Model([len, len], **sizes, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(errors.UserError, "forms .*; this host takes pairs"):
      build.assemble(config.get_config("dot_product"))
    known = configuration.default("xpool", host="retrieval", dataset="concept_videos")
    self.assertEqual(known.attention.drop_rate, 0.3)


class ObjectiveTest(parameterized.TestCase):
  def test_info_nce_by_hand(self):
    logits = jnp.array([[2.0, 0.0, 9.0], [1.0, 3.0, 9.0], [9.0, 9.0, 9.0]])
    got = info_nce.totals(logits, {"label": jnp.array([0, 0, -1])})

    def log(own, other):
      return math.log1p(math.exp(other - own))

    want = (log(2, 0) + log(3, 1) + log(2, 1) + log(3, 0)) / 2
    self.assertAlmostEqual(float(got["loss"]), want, places=5)
    self.assertEqual(float(got["count"]), 2)
    whole = info_nce.totals(logits, {"label": jnp.zeros(3, jnp.int32)})
    mean = xpool.clip_loss(logits, jnp.zeros(()))
    self.assertAlmostEqual(float(whole["loss"]) / 3, float(mean), places=5)

  @parameterized.parameters(
    # Own scores 3, 1 and 0 of rows whose last item is padding.
    ("recall_at_1", (1 + 0.5) / 3),
    ("recall_at_5", 1.0),
    ("mean_rank", (1 + 1.5 + 3) / 3),
  )
  def test_measures_by_hand(self, name, want):
    scores = jnp.array(
      [[3.0, 1, 2, 9], [1, 1, 0, 9], [2, 1, 0, 9], [0, 0, 0, 0]], jnp.float32
    )
    module = measures.load(name)
    sums = module.totals(scores, {"label": jnp.array([0, 0, 0, -1])})
    found = module.value({n: float(x) for n, x in sums.items()})
    self.assertAlmostEqual(found, want, places=6)
    self.assertEqual(measures.sign(name), -1 if name == "mean_rank" else 1)


class DataTest(parameterized.TestCase):
  def test_pairs_are_of_one_world(self):
    options = {"concepts": 9, "width": 400, "frames": 4, "examples": 3, "held_out": 2}
    task = data.load("concept_videos", options)
    self.assertEqual((task.size("text_width"), task.size("frame_width")), (400, 400))
    self.assertEqual([len(task.source(s)) for s in data.SPLITS], [3, 2, 2])
    first, again = (task.source("train")[1] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    self.assertEqual(first["frames"].shape, (4, 400))
    self.assertEqual(first["text"].dtype, np.float32)
    self.assertEqual(first["label"], 0)
    # The caption is near two of its frames, and frames of other splits show the same
    # concepts.
    product = first["frames"] @ first["text"]
    self.assertEqual(sorted(np.argsort(-product)[:2].tolist()), first["told"].tolist())
    other = task.source("test")[0]
    at, own = (
      {int(c): f for c, f in zip(one["shown"], one["frames"])} for one in (first, other)
    )
    shared = set(at) & set(own)
    for concept in shared:
      self.assertGreater(at[concept] @ own[concept], 0.9)

  @parameterized.parameters(
    ({"concepts": 5}, "concepts = 5; it must be at least 12"),
    ({"frames": 1}, "frames = 1; it must be at least 2"),
    ({"text_noise": -0.1}, "text_noise = -0.1; it must be at least 0"),
    ({"held_out": 0}, "held_out = 0"),
  )
  def test_errors_name_value_and_rule(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load("concept_videos", options)


class RunTest(absltest.TestCase):
  def test_a_run_leaves_a_page(self):
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    c = config.get_config()
    c.steps, c.log_every, c.eval_every, c.save_every = 2, 1, 2, 2
    c.data.batch, c.data.held_out, c.data.frames, c.data.width = 4, 14, 3, 8
    c.data.concepts, c.model.dim, c.optimizer.warmup = 20, 8, 1
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(run.run(c, workdir), "finished")
    summary = json.loads((workdir / "summary.json").read_text())
    self.assertEqual((summary["metric"], summary["host"]), ("recall_at_1", "retrieval"))
    final = summary["final"]["validation"]
    self.assertEqual(list(final), ["loss", "recall_at_1", "recall_at_5", "mean_rank"])
    page = check_alone(self, (workdir / "report.html").read_text())
    for words in (
      "Numbers of retrieval among 14 pairs",
      "median rank",
      "mean average precision",
      "The first captions and the videos that they find",
      "of 2 concepts)",
    ):
      self.assertIn(words, page.text)
    alts = [image["alt"] for image in page.all("img")]
    shown = "attention weights of captions (down) and the frames of video 0, head 0"
    self.assertIn(shown, alts)


if __name__ == "__main__":
  absltest.main()
