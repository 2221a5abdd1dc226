"""The host of several views: its model, its data set, its losses, a run."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import modalities
from attnjax.nn.generator import Generator, completed
from attnjax.variants.cross import triple_modal
from configs import modalities as config
from experiments import data, run
from experiments.data.sets import three_views
from experiments.training.objectives import (
  distribution_matching,
  focal,
  focal_matching,
)

B, W = 4, 5
_draw = np.random.default_rng(0).standard_normal
VIEWS = jnp.asarray(_draw((B, 3, W)), jnp.float32)
PRESENT = jnp.array([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1]], bool)
UNKNOWN = jnp.where(PRESENT[..., None], VIEWS, jnp.nan)
LABELS = jnp.array([1, 0, 0, -1])
_call: Any = jax.jit(lambda m, v, p, key=None: m(v, present=p, key=key))
_mixed: Any = jax.jit(triple_modal.tri_coattention)


def _model(**changes):
  options: dict[str, Any] = {"width": W, "classes": 2, "tokens": 3, "dim": 4}
  options |= {"hidden": 6} | changes
  build = contract.constructor("triple_modal", {}, modalities.FORMS)
  return modalities.Model([build], **options, rngs=nnx.Rngs(0))


def _linear(map, x):
  return np.tensordot(x, map.kernel[...], 1) + np.asarray(map.bias[...])


def _mlp(up, down, x):
  return _linear(down, np.maximum(_linear(up, x), 0))


class HostTest(parameterized.TestCase):
  @parameterized.parameters(*modalities.ABSENT)
  def test_logits_by_hand(self, absent):
    model = _model(absent=absent, depth=2)
    found = _call(model, UNKNOWN, PRESENT)
    views = np.where(PRESENT[..., None], VIEWS, 0)
    there = np.asarray(PRESENT)
    if absent == "generated":
      made = np.asarray(found["generated"])
      views = np.where(PRESENT[..., None], VIEWS, made)
    else:
      self.assertNotIn("generated", found)
    tokens = [_mlp(e.up, e.down, views[:, m]) for m, e in enumerate(model.encoders)]
    features = np.stack([x.reshape(B, -1) for x in tokens], axis=1)
    np.testing.assert_allclose(found["features"], features, atol=1e-5)
    read = there if absent == "token" else np.ones_like(there)
    for layer in model.layers:
      *tokens, _ = _mixed(*tokens, layer.weights, present=read)
    y = np.stack(tokens, axis=1).reshape(B, -1)
    want = _mlp(model.hidden, model.head, y)
    np.testing.assert_allclose(found["logits"], want, atol=1e-5)
    known = there if absent != "generated" else np.ones_like(there)
    np.testing.assert_array_equal(found["present"], known)

  def test_options(self):
    model = _model(sigmoid_scores=True)
    plain = _model()
    got, logits = (_call(m, VIEWS, PRESENT)["logits"] for m in (model, plain))
    np.testing.assert_allclose(got, jax.nn.sigmoid(logits), atol=1e-6)
    key = jax.random.key(0)
    dropped = _call(plain, VIEWS, PRESENT, key)["logits"]
    self.assertGreater(float(jnp.abs(dropped - logits).max()), 1e-3)
    self.assertEqual((plain.absent, plain.dropout), ("generated", 0.5))
    with self.assertRaisesRegex(ValueError, "unknown absent 'token1'"):
      _model(absent="token1")
    with self.assertRaisesRegex(ValueError, "2 views; the streams are"):
      plain(VIEWS[:, :2])
    whole = jax.jit(lambda m: m(VIEWS)["logits"])(plain)
    every = jnp.ones_like(PRESENT)
    np.testing.assert_allclose(whole, _call(plain, VIEWS, every)["logits"], atol=1e-6)

  def test_views_are_made_of_the_others(self):
    made = Generator(3, W, 6, rngs=nnx.Rngs(1))
    found = jax.jit(made)(UNKNOWN, PRESENT)
    for i in range(B):
      for m in range(3):
        seen = np.asarray(PRESENT[i]) & (np.arange(3) != m)
        known = np.where(seen[:, None], VIEWS[i], 0).reshape(-1)
        want = _mlp(made.up[m], made.down[m], np.concatenate([known, seen]))
        np.testing.assert_allclose(found[i, m], want, atol=1e-5)

    def filled(made):
      return completed(UNKNOWN, made, PRESENT).sum()

    slope = jax.grad(filled)(VIEWS)
    self.assertFalse(slope.any())  # constants


class ObjectivesTest(absltest.TestCase):
  def test_sums(self):
    outputs = {
      "logits": jnp.asarray(_draw((B, 2)), jnp.float32),
      "features": jnp.asarray(_draw((B, 3, 6)), jnp.float32),
      "present": PRESENT,
      "generated": VIEWS + jnp.array([0.5, 1.0, -2.0])[:, None],
    }
    batch = {"label": LABELS, "views": VIEWS, "present": PRESENT}
    logits = outputs["logits"]
    a, b, c = (outputs["features"][:, m] for m in range(3))
    one = float(triple_modal.focal_loss(logits, LABELS))
    both = triple_modal.itcfn_loss(a, b, c, logits, LABELS, present=PRESENT)
    hits = float((logits.argmax(1) == LABELS)[:3].sum())
    # Of the three labelled examples three views, two and one are there.
    error = (3 * 0.5 + 1 * 1.0 + 2 * 2.0) / 6
    for module, want in (
      (focal, one),
      (distribution_matching, 100 * (float(both) - one)),
      (focal_matching, float(both) + error),
    ):
      found = module.totals(outputs, batch)
      self.assertAlmostEqual(float(found["loss"]), 3 * want, places=3)
      self.assertEqual((found["count"], found["hits"]), (3, hits))
    del outputs["generated"]
    found = focal_matching.totals(outputs, batch)
    self.assertAlmostEqual(float(found["loss"]), 3 * float(both), places=4)


class DataTest(parameterized.TestCase):
  def test_views_tell_the_label(self):
    options = {"width": 6, "examples": 300, "held_out": 200, "noise": 0.3}
    task = data.load("three_views", options)
    self.assertEqual((task.kind, task.shape, task.classes), ("views", (3, 6), 2))
    self.assertEqual((task.size("width"), task.objective), (6, "focal_matching"))
    self.assertEqual([len(task.source(s)) for s in data.SPLITS], [300, 200, 200])
    source = task.source("train")
    jax.tree.map(np.testing.assert_array_equal, source[7], source[7])
    found = [source[i] for i in range(300)]
    views, present, labels = (
      np.stack([one[n] for one in found]) for n in ("views", "present", "label")
    )
    self.assertTrue(present[:, [0, 2]].all())
    self.assertAlmostEqual(present[:, 1].mean(), 0.6, delta=0.08)
    self.assertFalse(views[~present].any())
    world = three_views.world(0, 6)
    whole = present.all(axis=1)
    a, b = views[:, 1] @ world["c"] > 0, views[:, 2] @ world["d"] > 0
    np.testing.assert_array_equal((a != b)[whole], labels[whole])
    self.assertAlmostEqual(labels.mean(), 0.5, delta=0.1)
    made = np.tanh(views[:, 0] @ world["P"].T)
    self.assertAlmostEqual((views[:, 1] - made)[whole].std(), 0.3, delta=0.03)
    other = task.source("test")[0]["views"]
    self.assertGreater(np.abs(other - views[0]).max(), 0.1)

  @parameterized.parameters(
    ({"noise": -1.0}, "noise = -1.0; it must be at least 0"),
    ({"absent": 1.5}, "absent = 1.5; it must be from 0 to 1"),
    ({"width": 0}, "width = 0"),
    ({"examples": 0}, "examples = 0"),
  )
  def test_errors_name_value_and_rule(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load("three_views", options)


class RunTest(absltest.TestCase):
  def test_a_run(self):
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    c = config.get_config()
    c.steps, c.log_every, c.eval_every, c.save_every = 2, 1, 2, 2
    c.data.batch, c.data.held_out, c.data.width = 4, 6, 5
    c.model.tokens, c.model.dim, c.model.hidden, c.optimizer.warmup = 3, 4, 6, 1
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(run.run(c, workdir), "finished")
    summary = json.loads((workdir / "summary.json").read_text())
    self.assertEqual((summary["metric"], summary["host"]), ("accuracy", "modalities"))
    self.assertEqual(list(summary["final"]["validation"]), ["loss", "accuracy"])


if __name__ == "__main__":
  absltest.main()
