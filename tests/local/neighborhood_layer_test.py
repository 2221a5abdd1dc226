import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.local import neighborhood


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


_weights = jax.jit(lambda layer, x: contract.weights(layer, x))


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"window": 0}, "window = 0"),
    ({"window": 3, "stride": 4}, "stride = 4.*window = 3"),
    ({"window": 3, "stride": 0}, "stride = 0"),
    ({"window": 3, "dilation": 0}, "dilation = 0"),
    ({"window": 4, "dilation": 2}, "4 x 2.*length 7"),
    ({"window": (3, 3)}, "window = .3, 3."),
    ({"window": 3, "causal": (True, False)}, "causal"),
    ({"window": 3, "extra_k": jnp.zeros((1, 2, 2, 4))}, "extra_v = None"),
    ({"window": 3, "impl": "fused"}, "'fused'.*reference"),
    ({"window": 3, "segment_ids": jnp.zeros((1, 5), int)}, "segment_ids"),
  )
  def test_the_argument_and_the_rule_are_named(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      neighborhood.attend(*[jnp.ones((1, 7, 2, 4))] * 3, **options)

  def test_segments_need_one_axis(self):
    with self.assertRaisesRegex(ValueError, "segment_ids.*one axis"):
      neighborhood.attend(
        *[jnp.ones((1, 3, 3, 2, 4))] * 3,
        window=2,
        segment_ids=jnp.zeros((1, 9), jnp.int32),
      )


class LayerTest(parameterized.TestCase):
  def _layer(self, form, **options: Any):
    options.setdefault("window", 3)
    return neighborhood.Layer(8, form=form, heads=2, rngs=nnx.Rngs(0), **options)

  @parameterized.parameters(("sequence", (9,)), ("image", (4, 5)), ("video", (2, 3, 4)))
  def test_weights_are_those_of_the_call(self, form, grid):
    layer = self._layer(form)
    x = jax.random.normal(jax.random.key(0), (2, *grid, 8))
    weights = _weights(layer, x)
    v = layer.project(x).v
    out = jnp.einsum("bnts,bsnv->btnv", weights, v.reshape(2, -1, 2, 4))
    _close(layer.out(out).reshape(x.shape), layer(x))
    _close(weights.sum(axis=-1), jnp.ones((2, 2, np.prod(grid))))

  def test_a_grid_below_the_window_is_seen_whole(self):
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 8))
    weights = _weights(self._layer("image", window=5), x)
    self.assertGreater(weights.min(), 0)

  def test_axes_may_differ(self):
    layer = self._layer("image", window=(1, 3), causal=(False, True))
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, 8))
    weights = _weights(layer, x)
    want = neighborhood.dense_mask((4, 5), window=(1, 3), causal=(False, True))
    np.testing.assert_array_equal(weights[0, 0] > 0, want)

  def test_refusals(self):
    with self.assertRaisesRegex(ValueError, "sequence"):
      self._layer("sequence", causal=True)
    with self.assertRaisesRegex(ValueError, "rope_theta"):
      self._layer("image", rope_theta=100.0)
    with self.assertRaisesRegex(ValueError, "'graph'"):
      self._layer("graph")
    with self.assertRaisesRegex(NotImplementedError, "image"):
      self._layer("image")(jnp.ones((1, 3, 3, 8)), valid=jnp.ones((1, 3), bool))
    with self.assertRaisesRegex(NotImplementedError, "sequence"):
      self._layer("sequence").init_cache(1, 4)


class DecodingTest(parameterized.TestCase):
  @parameterized.parameters((4, 1, 1), (4, 3, 1), (3, 3, 2), (3, 1, 3))
  def test_any_cut_gives_the_whole(self, window, stride, dilation):
    layer = neighborhood.Layer(
      8,
      form="causal",
      heads=2,
      window=window,
      stride=stride,
      dilation=dilation,
      rope_theta=100.0,
      rngs=nnx.Rngs(0),
    )
    length, pad = 23, 5
    x = jax.random.normal(jax.random.key(0), (2, length, 8))
    valid = jnp.arange(length) >= jnp.array([[0], [pad]])
    whole = jax.jit(lambda x, p: layer(x, valid=p))(x, valid)
    step = jax.jit(lambda x, cache, p: layer.step(x, cache, valid=p))
    for cuts in (range(length + 1), (0, 1, 15, 16, length), (0, length)):
      cache, out = layer.init_cache(2, length), []
      self.assertEqual(cache.k.shape[1], window * dilation)
      for a, b in itertools.pairwise(cuts):
        y, cache = step(x[:, a:b], cache, valid[:, a:b])
        out.append(y)
      got = jnp.concatenate(out, axis=1)
      _close(got[0], whole[0])
      _close(got[1, pad:], whole[1, pad:])

  def test_past_the_end_is_nan(self):
    layer = neighborhood.Layer(8, form="causal", heads=2, window=3, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 2, 8))
    y, cache = layer.step(x, layer.init_cache(1, 3))
    self.assertTrue(jnp.isfinite(y).all())
    y, _ = layer.step(x, cache)
    self.assertTrue(jnp.isnan(y).all())
    with self.assertRaisesRegex(ValueError, "5 tokens.*length 3"):
      layer.step(jnp.ones((1, 5, 8)), layer.init_cache(1, 3))

  def test_documents_with_strides_are_refused(self):
    layer = neighborhood.Layer(
      8, form="causal", heads=2, window=4, stride=2, rngs=nnx.Rngs(0)
    )
    with self.assertRaisesRegex(NotImplementedError, "stride = 2"):
      layer.step(
        jnp.ones((1, 2, 8)),
        layer.init_cache(1, 4),
        segment_ids=jnp.zeros((1, 2), jnp.int32),
      )


if __name__ == "__main__":
  absltest.main()
