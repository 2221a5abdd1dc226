"""The host of composed retrieval: model, data set, loss, measures, runs with a page."""

import contextlib
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import composed
from attnjax.variants.cross import composed_retrieval as collm
from configs import composed as config
from experiments import build, data, errors, run
from experiments.data import attributes
from experiments.training import measures
from experiments.training.objectives import composed_info_nce, info_nce
from tests.pages import check_alone

VOCAB = len(attributes.WORDS)


def _model(slugs=("composed_retrieval", "dot_product"), **changes):
  own: Any = {"dot_product": {"heads": 2}, "composed_retrieval": {"width": 4}}
  builds = [contract.constructor(s, own.get(s, {}), composed.FORMS) for s in slugs]
  options: Any = {"vocab": VOCAB, "image_width": 5, "dim": 8, "depth": 1} | changes
  return composed.Model(builds, **options, rngs=nnx.Rngs(0))


def _draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


IMAGE, VIEW = _draw(4, 5), _draw(4, 5, seed=1)
CAPTION = jnp.arange(12).reshape(4, 3)
TEXT = jnp.array([[VOCAB - 1, 2], [VOCAB - 2, -1], [3, 4], [5, -1]])
BATCH = IMAGE, VIEW, CAPTION, TEXT


@jax.jit
def _call(model, key):
  return model(*BATCH, key=key)


class HostTest(absltest.TestCase):
  def test_queries_are_of_three_kinds(self):
    model, key = _model(alpha=0.25, text_rate=1.0), jax.random.key(0)
    found = _call(model, key)
    self.assertEqual(found.shape, (3, 4, 4))

    @jax.jit
    def by_hand(model):
      first = VOCAB - len(collm.WORDS)
      templates = collm.encode_templates(lambda w: [first + collm.WORDS.index(w)])
      made = collm.synthesize_triplets(
        VIEW, CAPTION, key, templates, alpha=0.25, text_rate=1.0
      )
      asked = (made.reference, None), (None, CAPTION), (made.reference, made.text)
      queries = jnp.stack([model.embed_queries(*one) for one in asked])
      return queries @ model.embed_items(IMAGE).T / 0.07

    np.testing.assert_allclose(found, by_hand(model), rtol=1e-3, atol=1e-4)
    asked = jax.jit(lambda m: m.embed_queries(VIEW, TEXT) @ m.embed_items(IMAGE).T)
    given = _call(model, None)
    np.testing.assert_allclose(given, asked(model)[None] / 0.07, rtol=1e-3, atol=1e-4)
    # With triplets of its own, a batch is asked as it is evaluated.
    own = _call(_model(synthesize=False, kinds="composed"), key)
    np.testing.assert_allclose(own, given, rtol=1e-4, atol=1e-4)

  def test_every_parameter_has_a_gradient(self):
    def loss(model):
      return jnp.sum(jnp.sin(model(*BATCH, key=jax.random.key(0))))

    found = jax.jit(jax.grad(loss))(_model(tune_images=True, stop_gradient=False))
    for path, slope in jax.tree_util.tree_leaves_with_path(found):
      self.assertTrue((slope != 0).any(), jax.tree_util.keystr(path))

  def test_options_reach_the_triplets(self):
    key = jax.random.key(0)
    usual = _call(_model(kinds="composed"), key)
    self.assertEqual(usual.shape, (1, 4, 4))
    for options in (
      {"neighbour": "random"},
      {"text_rate": 0.0},
      {"templates": ("but {own}",)},
      {"instruct": False},
    ):
      found = _call(_model(kinds="composed", **options), key)
      self.assertGreater(np.abs(found - usual).max(), 1e-4, options)

  def test_false_negatives_are_left_out(self):
    bound = -0.2
    found = _call(_model(mask_above=bound, kinds="image, text"), jax.random.key(0))
    unit = np.asarray(IMAGE) / np.linalg.norm(IMAGE, axis=1, keepdims=True)
    out = (unit @ unit.T > bound) & ~np.eye(4, dtype=bool)
    self.assertTrue(out.any())
    for logits in found:
      np.testing.assert_array_equal(np.isneginf(logits), out)

  def test_errors_name_value_and_rule(self):
    for change, message in (
      ({"slugs": ("dot_product",)}, "0 mechanisms of the form pairs: .* has one"),
      ({"slugs": ("xpool", "dot_product")}, "which makes triplets"),
      ({"slugs": ("composed_retrieval",)}, "no causal mechanism"),
      ({"kinds": "image,sound"}, "kind of queries 'sound'"),
      ({"vocab": 5}, "vocab = 5; it must be at least"),
      ({"templates": ("never {own}",)}, "word of a template 'never'"),
    ):
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        _model(**change)
    c = config.get_config("xpool")
    with self.assertRaisesRegex(errors.UserError, "which makes triplets"):
      build.assemble(c)

  def test_the_config_adds_what_is_missing(self):
    for given, want in (
      ("dot_product", "composed_retrieval,dot_product"),
      ("composed_retrieval", "composed_retrieval,dot_product"),
      ("lightning2,dot_product", "composed_retrieval,lightning2,dot_product"),
      ("composed_retrieval,aaren", "composed_retrieval,aaren"),
    ):
      self.assertEqual(config.get_config(given).mechanism, want)


class ObjectiveTest(absltest.TestCase):
  def test_kinds_have_equal_weights(self):
    outputs, batch = _draw(3, 4, 4), {"label": jnp.array([0, 0, 0, -1])}
    got = composed_info_nce.totals(outputs, batch)
    want = [float(info_nce.totals(x, batch)["loss"]) for x in outputs]
    self.assertAlmostEqual(float(got["loss"]), sum(want) / 3, places=4)
    self.assertEqual(float(got["count"]), 3)

  def test_recalls_are_of_the_last_kind(self):
    scores = jnp.stack([jnp.eye(7), -jnp.eye(7)])
    batch = {"label": jnp.zeros(7, jnp.int32)}
    for k, want in ((1, (1.0, 0.0)), (5, (1.0, 0.0))):
      module = measures.load(f"composed_recall_at_{k}")
      for order, right in zip((scores[::-1], scores), want):
        sums = module.totals(order, batch)
        value = module.value({n: float(x) for n, x in sums.items()})
        self.assertEqual(value, right)
    self.assertEqual(measures.sign("composed_recall_at_5"), 1)


class DataTest(parameterized.TestCase):
  def test_images_differ_in_one_attribute(self):
    task = data.load("changed_attributes", {"examples": 30, "held_out": 20})
    self.assertEqual((task.size("image_width"), task.size("vocab")), (32, VOCAB))
    self.assertEqual([len(task.source(s)) for s in data.SPLITS], [30, 20, 20])
    first, again = (task.source("train")[1] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    self.assertEqual(first["text"].tolist(), [-1, -1])
    shapes = {n: (x.shape, x.dtype) for n, x in first.items()}
    images = {}
    for split in ("validation", "test"):
      for i in range(20):
        one = task.source(split)[i]
        self.assertEqual({n: (x.shape, x.dtype) for n, x in one.items()}, shapes)
        (place,) = (one["shown"] != one["seen"]).nonzero()[0]
        word = attributes.VALUES[place][one["shown"][place]]
        self.assertEqual(attributes.decode(one["text"]), f"but {word}")
        for side, name in (("target_id", "image"), ("reference_id", "reference")):
          kept = images.setdefault(int(one[side]), one[name])
          np.testing.assert_array_equal(kept, one[name])
    self.assertEqual(len(attributes.decode(first["caption"]).split()), 3)

  def test_vectors_are_sums_of_values(self):
    options = {"width": 400, "examples": 9, "held_out": 5, "noise": 0.1}
    world = attributes.world(0, values=8, width=400, noise=0.1, gallery=512)
    self.assertEqual(len(np.unique(world.triples, axis=0)), len(world.triples))
    self.assertBetween(len(world.triples), 300, 350)  # 512 (1 - 1 / e)
    one = data.load("changed_attributes", options).source("train")[3]
    clean = sum(world.embeddings[i, v] for i, v in enumerate(one["shown"]))
    for name in ("image", "reference"):
      self.assertAlmostEqual(float(np.linalg.norm(one[name])), 1, places=5)
      cosine = one[name] @ clean / np.linalg.norm(clean)
      self.assertAlmostEqual(cosine, 1 / math.sqrt(1 + 0.1**2), delta=0.003)
    self.assertFalse(np.array_equal(one["image"], one["reference"]))
    self.assertEqual(one["shown"].tolist(), one["seen"].tolist())

  def test_training_may_have_triplets(self):
    options = {"triplets": True, "values": 3, "examples": 9, "gallery": 30}
    source = data.load("changed_attributes", options).source("train")
    for i in range(9):
      one = source[i]
      (place,) = (one["shown"] != one["seen"]).nonzero()[0]
      word = attributes.VALUES[place][one["shown"][place]]
      self.assertEqual(attributes.decode(one["text"]), f"but {word}")
      self.assertLess(max(*one["shown"], *one["seen"]), 3)

  def test_pictures_differ(self):
    triples = np.array([[0, 0, 0], [1, 0, 0], *([0, s, 0] for s in range(1, 8))])
    triples = np.concatenate([triples, [[0, 0, p] for p in range(1, 8)]])
    pictures = [attributes.picture(triple) for triple in triples]
    self.assertEqual(pictures[0].shape, (36, 36, 3))
    self.assertLen({p.tobytes() for p in pictures}, len(triples))
    north = attributes.picture(np.array([7, 2, 0]))
    self.assertTrue((north[12:] == 255).all() and (north[:12, 14:22] < 255).any())

  @parameterized.parameters(
    ({"values": 9}, "values = 9; it must be at most 8"),
    ({"values": 1}, "values = 1; it must be at least 2"),
    ({"noise": -0.1}, "noise = -0.1; it must be at least 0"),
    ({"held_out": 0}, "held_out = 0"),
    ({"gallery": 2, "seed": 3}, "gallery = 2: no two of its images differ in one"),
  )
  def test_errors_name_value_and_rule(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load("changed_attributes", options)


class RunTest(absltest.TestCase):
  def test_a_run_leaves_a_page(self):
    workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    c = config.get_config()
    c.steps, c.log_every, c.eval_every, c.save_every = 2, 1, 2, 2
    c.data.batch, c.data.held_out, c.data.width = 4, 14, 8
    c.model.dim, c.model.depth, c.optimizer.warmup = 8, 1, 1
    c.attention.dot_product.heads = 2
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(run.run(c, workdir), "finished")
    summary = json.loads((workdir / "summary.json").read_text())
    self.assertEqual(
      (summary["metric"], summary["host"]), ("composed_recall_at_1", "composed")
    )
    final = summary["final"]["validation"]
    self.assertEqual(
      list(final), ["loss", "composed_recall_at_1", "composed_recall_at_5"]
    )
    page = check_alone(self, (workdir / "report.html").read_text())
    for words in (
      "images, the reference not in the list",
      "mean average precision at 5",
      "recall at 1 of the subset",
      "sum of both",
      ": the target has rank",
    ):
      self.assertIn(words, page.text)
    alts = [image["alt"] for image in page.all("img")]
    self.assertIn("reference of example 0", alts)
    self.assertIn("target of example 11", alts)
    self.assertIn("attention weights of block 0, head 0", alts)


if __name__ == "__main__":
  absltest.main()
