"""Running statistics in every model that has batch norm: published ones and hosts."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language, pyramid, vision
from attnjax.nn import running, transformer
from attnjax.nn.norms import BatchNorm, Moments, Stats

_TINY = {
  "duoformer": {
    "blocks": (1, 1, 1, 1),
    "scales": 2,
    "dim": 8,
    "heads": 2,
    "depth": 1,
  },
  "halo": {"widths": (8, 16), "depths": (1, 1), "heads": (2, 2), "last": 12},
  "hilo": {"dim": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
  "l2vit": {"dims": (8, 16), "depths": (1, 2), "heads": (1, 2)},
  "maxvit": {"dims": (8, 16), "depths": (1, 1), "stem": 4, "head_dim": 4},
  "medvitv2": {"dims": (32, 128, 64, 128), "depths": (1, 1, 1, 1)},
}
# How many there are, by the papers' pictures of the blocks.
_NORMS = {
  "duoformer": 1 + 2 + 3 * 3,
  "halo": 1 + 3 + 4 + 1,
  "hilo": 3,
  "l2vit": 2 + 1,
  "maxvit": 1 + 3 + 3,
  "medvitv2": 4 + 6 + 6 + 6 + 5 + 1,
}


class _Mixed(nnx.Module):
  """A layer with batch norm for any host; `form` is of the host's choice."""

  init_stats = running.init_stats

  def __init__(self, dim, *, layers=1, rngs):
    self.linear, self.norm = nnx.Linear(dim, dim, rngs=rngs), BatchNorm(dim)

  def __call__(self, x, *, index=0, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    return carry.result(jnp.sin(carry(self.norm, self.linear(x))))

  def weights(self, x, *, index=0):
    return jnp.zeros((x.shape[0], 1, x.shape[1], x.shape[1])) + x.mean()


class _OfSequences:
  form = "sequence"

  def __call__(self, dim, *, layers, rngs):
    return _Mixed(dim, layers=layers, rngs=rngs)


def _l2vit(host):
  options = {"norm": "batch", "heads": 2, "local_kernel": 3, "den_min": 1.0}
  return contract.constructor("l2vit", options, host.FORMS)


def _vision(build, **changes) -> Any:
  options = {"channels": 3, "classes": 5, "dim": 8, "depth": 2} | changes
  return vision.Model([build], **options, rngs=nnx.Rngs(0))


def _pyramid(build=_Mixed) -> Any:
  options: dict[str, Any] = {"dims": (8, 16), "depths": (1, 1)}
  options |= {"channels": 3, "classes": 5}
  return pyramid.Model([build], **options, rngs=nnx.Rngs(0))


def _language() -> Any:
  return language.Model([_Mixed], vocab=7, dim=8, depth=2, conv=2, rngs=nnx.Rngs(0))


def _images(side=16, batch=4):
  return jax.random.normal(jax.random.key(1), (batch, side, side, 3))


def _published():
  for slug, name in contract.systems().items():
    origin: Any = importlib.util.find_spec(name).origin
    text = Path(origin).read_text(encoding="utf-8")
    if re.search(r'"Model"|^(def|class) Model\b', text, re.MULTILINE):  # not a title
      yield slug


def _drawn(make) -> Any:
  """The model that is made, with weights that are quickly drawn."""
  draw = np.random.default_rng(0)

  def one(path, leaf):
    drawn = 0.3 * draw.normal(size=leaf.shape) + ("scale" in jax.tree_util.keystr(path))
    return jnp.asarray(drawn, jnp.float32)

  return jax.tree_util.tree_map_with_path(one, jax.eval_shape(make))


@jax.jit
def _run(model, x):
  """Moments of a batch, its results, and those of its half by these statistics."""
  stats = running.init_stats(model)
  y, moments = model(x, stats=running.init_moments(stats), train=True)
  exact = jax.tree.map(
    lambda m: Stats(m.mean, m.var), moments, is_leaf=lambda m: isinstance(m, Moments)
  )
  return y, moments, exact, model(x[: len(x) // 2], stats=exact)


class ModelTest(parameterized.TestCase):
  def test_all_published_models_are_networks(self):
    # Whose contract is that every norm measures; pointer networks have no norm.
    published = set(_published())
    self.assertContainsSubset(_TINY, published)
    networks = {"backbone", "dense", "pointer"}
    forms = {slug for slug in published if networks & set(contract.load(slug).FORMS)}
    self.assertEqual(published, forms)

  @parameterized.parameters(*_TINY)
  def test_published_models_have_the_norms_of_the_papers(self, slug):
    make = contract.load(slug).Model
    model = jax.eval_shape(lambda: make(3, 5, **_TINY[slug], rngs=nnx.Rngs(0)))
    stats = jax.eval_shape(running.init_stats, model)
    is_stats = lambda leaf: isinstance(leaf, Stats)  # noqa: E731
    self.assertLen(jax.tree.leaves(stats, is_leaf=is_stats), _NORMS[slug])

  @parameterized.named_parameters(
    ("pyramid", lambda: _pyramid(_l2vit(pyramid)), 2, _images(8)),
    ("on_grid", lambda: _vision(_OfSequences()), 2, _images(8)),
    ("remat", lambda: _vision(_OfSequences(), remat="full"), 2, _images(8)),
    ("language", _language, 2, jnp.arange(20).reshape(4, 5) % 7),
    ("block", lambda: _block(), 1, _images(4)),
  )
  def test_hosts_measure_every_norm(self, make, norms, x):
    found = self._check(make, x)
    model = jax.eval_shape(make)
    stats = jax.eval_shape(running.init_stats, model)
    moving = jax.eval_shape(lambda m, s: m(x, stats=s, train=True)[1], model, stats)
    self.assertEqual(jax.tree.map(_type, moving), jax.tree.map(_type, stats))
    self.assertEqual(sum(leaf.count.size for leaf in found), norms)

  def _check(self, make, x):
    """All that holds of any model; the moments of its norms."""
    model = _drawn(make)
    y, moments, exact, (half, kept) = _run(model, x)
    self.assertEmpty(jax.tree.leaves(nnx.state(model, nnx.BatchStat)))
    kinds = {type(leaf) for _, leaf in nnx.iter_graph(model)}
    held = {kind for kind in kinds if issubclass(kind, nnx.Variable)}
    self.assertEqual(held, {nnx.Param})
    leaves = jax.tree.leaves(moments, is_leaf=lambda leaf: isinstance(leaf, Moments))
    for leaf in leaves:
      self.assertGreater(leaf.count.min(), 1)
      self.assertGreater(np.abs(leaf.mean).sum(-1).min(), 0)
    # Each norm is given its own, and evaluation measures nothing.
    np.testing.assert_allclose(half, y[: len(half)], rtol=1e-3, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, kept, exact)
    with self.assertRaisesRegex(ValueError, r"has batch norm: pass stats=layer\.init_"):
      model(x)
    return leaves

  def test_features_and_weights_take_statistics(self):
    model, x = _drawn(_pyramid), _images(8)
    stats = model.init_stats()

    @jax.jit
    def run(model, stats):
      _, moving = model.features(x, stats=stats, train=True)
      maps, kept = model.features(x, stats=moving)
      weights = [model.weights(x, stats=s) for s in (stats, moving)]
      logits = model.head(maps[-1].mean((1, 2))), model(x, stats=moving)[0]
      return (kept, moving), weights, logits

    kept, (one, other), logits = run(model, stats)
    jax.tree.map(np.testing.assert_array_equal, *kept)
    self.assertLen(one, 2)
    np.testing.assert_array_equal(one[0], other[0])
    self.assertGreater(np.abs(one[-1] - other[-1]).max(), 0)
    _close(*logits)
    with self.assertRaisesRegex(ValueError, "has batch norm"):
      model.weights(x)

  def test_weights_of_a_language_model_and_no_decoding(self):
    model, x = _drawn(_language), jnp.arange(10).reshape(2, 5) % 7
    found = jax.eval_shape(lambda m: m.weights(x, stats=m.init_stats()), model)
    self.assertLen(found, 2)
    with self.assertRaisesRegex(NotImplementedError, "batch norm has no step form"):
      model.step(x, ())

  def test_a_model_without_batch_norm_carries_nothing(self):
    build = contract.constructor("l2vit", {"heads": 2, "local_kernel": 3}, vision.FORMS)
    model, x = _drawn(lambda: _vision(build)), _images(8)
    self.assertEqual(model.init_stats(), ())
    plain = jax.make_jaxpr(lambda m, x: m(x))(model, x)
    given = jax.make_jaxpr(lambda m, x: m(x, stats=(), train=True)[0])(model, x)
    self.assertEqual(str(given), str(plain))
    maps = jax.eval_shape(lambda m: m.features(x, stats=(), train=True), model)
    self.assertEqual(maps[1], ())


class SourceTest(absltest.TestCase):
  def test_no_module_of_the_library_makes_a_statistic_a_variable(self):
    names = ("BatchStat", "nnx.BatchNorm", "nnx.Variable", "nnx.Cache")
    files = list((Path(__file__).parent.parent / "attnjax").rglob("*.py"))
    for path in files:
      if "contract" in path.parts:
        continue  # it looks for them in layers and networks
      text = path.read_text(encoding="utf-8")
      self.assertEmpty([name for name in names if name in text], path)
    self.assertGreater(len(files), 200)


def _block() -> Any:
  def mixer(rngs):
    return _Mixed(3, rngs=rngs)

  return transformer.Block(3, mixer, hidden=8, drop=0.5, rngs=nnx.Rngs(0))


def _type(leaf):
  return leaf.shape, leaf.dtype


def _close(found, wanted):
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
  absltest.main()
