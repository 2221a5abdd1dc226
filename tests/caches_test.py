"""Caches of stacked layers are updated in place, and pass through `jax.export`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx
from jax import export

from attnjax import contract, policies
from attnjax.core.cache import KeyValueCache, RecurrentCache, of_layer, without_keys
from attnjax.models import language

_LAYERS, _ROOM = 3, 40


def _model(depth=_LAYERS):
  options = {"heads": 4, "kv_heads": 2}
  build = contract.constructor("dot_product", options, language.FORMS)
  return language.Model([build], vocab=7, dim=32, depth=depth, rngs=nnx.Rngs(0))


def _policy(slug) -> Any:
  options = {
    "delta": {"full_layers": (0,), "pages": 2, "page": 4, "recent_pages": 1},
    "kinetics": {"blocks": 1, "block": 4, "local": 4, "sink": 1},
  }
  return contract.load(slug).Policy(**options[slug]) if slug else None


def _stacked(draw):
  """Returns three caches of (2, 5) tokens, one, two and three of them written."""
  full = KeyValueCache.empty(2, 5, (2, 3), (2, 4), jnp.float32)
  shapes = (_LAYERS, *full.k.shape), (_LAYERS, *full.v.shape)
  keys, values = (jnp.asarray(draw(shape), jnp.float32) for shape in shapes)
  ids = jnp.tile(full.segment_ids, (_LAYERS, 1, 1))
  return KeyValueCache(keys, values, ids, jnp.arange(1, _LAYERS + 1, dtype=jnp.int32))


class LayersTest(absltest.TestCase):
  def test_a_layer_reads_and_writes_its_own_part(self):
    draw = np.random.default_rng(0).standard_normal
    stacked = _stacked(draw)
    k, v = (jnp.asarray(draw((2, 2, 2, n)), jnp.float32) for n in (3, 4))
    ids = jnp.array([[4, -1], [5, 5]])
    held, rest = without_keys(stacked)
    rows, places, heads = (jnp.array(x) for x in ([1, 0], [3, 2], [0, 1]))
    for layer in range(_LAYERS):
      one = jax.tree.map(lambda x, n=layer: x[n], rest)
      got = of_layer(held, one, jnp.int32(layer))
      want = jax.tree.map(lambda x, n=layer: x[n], stacked)
      np.testing.assert_array_equal(got.k, want.k)
      np.testing.assert_array_equal(got.v, want.v)
      for pair in zip(got.at(rows, places), want.at(rows, places)):
        np.testing.assert_array_equal(*pair)
      for pair in zip(got.at(rows, places, heads), want.at(rows, places, heads)):
        np.testing.assert_array_equal(*pair)
      self.assertEqual((got.room, want.room), (5, 5))
      np.testing.assert_array_equal(want.at(rows, places, heads)[0][0], want.k[1, 3, 0])
      got, want = got.append(k, v, ids), want.append(k, v, ids)
      for name in ("k", "v", "segment_ids", "length"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
      np.testing.assert_array_equal(want.k[:, layer + 1 : layer + 3], k)
      others = np.arange(_LAYERS) != layer
      np.testing.assert_array_equal(got.keys[others], stacked.keys[others])
      np.testing.assert_array_equal(got.values[others], stacked.values[others])

  def test_other_caches_pass_unchanged(self):
    state = RecurrentCache.empty(jnp.ones((2, 3)))
    tree = (_stacked(np.ones), (state, ())), state
    held, rest = without_keys(tree)
    self.assertLen(held, 1)
    back = of_layer(held, rest, None)
    self.assertEqual(jax.tree.structure(back), jax.tree.structure(tree))
    jax.tree.map(np.testing.assert_array_equal, back, tree)


class InPlaceTest(parameterized.TestCase):
  @parameterized.parameters(None, "delta", "kinetics")
  def test_a_step_copies_no_layers_of_keys(self, slug):
    """Compiles steps with room for many tokens: memory is that of one layer's keys."""
    depth, room = 12, 4096
    model = _model(depth)
    cache = jax.eval_shape(
      lambda m: policies.under(_policy(slug), m.init_cache(1, room)), model
    )
    keys = cache[0][0].keys
    whole = 2 * keys.size * keys.dtype.itemsize
    for tokens in (1, 2):
      given = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
      step = jax.jit(lambda m, t, c: m.step(t, c), donate_argnums=2)
      memory: Any = step.lower(model, given, cache).compile().memory_analysis()
      self.assertGreaterEqual(memory.alias_size_in_bytes, whole)
      self.assertLess(memory.temp_size_in_bytes, whole / 2)


class ExportTest(parameterized.TestCase):
  @parameterized.parameters(None, "delta", "kinetics")
  def test_a_saved_step_goes_on(self, slug):
    model = _model()
    cache = policies.under(_policy(slug), model.init_cache(2, _ROOM), prompt=0)
    step = jax.jit(lambda t, c: model.step(t, c))
    tokens = jnp.arange(2)[:, None]
    saved = export.export(step)(tokens, cache).serialize()
    loaded = export.deserialize(saved)
    got, want = cache, cache
    for _ in range(3):
      out, got = loaded.call(tokens, got)
      expected, want = step(tokens, want)
      np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    self.assertEqual(jax.tree.structure(got), jax.tree.structure(want))
    if slug:
      self.assertEqual(got[0][0].policy, _policy(slug).fitted(_LAYERS))

  def test_policies_of_others_are_refused(self):
    cache = policies.under(_policy("kinetics"), _model().init_cache(1, 8))
    mixer = dataclasses.replace(cache[0][0], policy=_Foreign())
    length = jax.jit(lambda c: c.length)
    with self.assertRaisesRegex(ValueError, "PolicyCache.*_Foreign.*attnjax"):
      export.export(length)(mixer).serialize()


@dataclasses.dataclass(frozen=True)
class _Foreign:
  size: int = 1


if __name__ == "__main__":
  absltest.main()
