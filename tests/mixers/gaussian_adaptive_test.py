"""GAAM beyond the authors' file: NumPy by hand, documents, the layer, the block."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.mixers import gaussian_adaptive as gaam
from attnjax.variants.mixers.gaussian_adaptive import block


def _draw(*shape, seed=0):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(draw, jnp.float32)


def _gaussians(M, K, seed=7):
  displacement, log = _draw(2, M, K, seed=seed)
  return displacement, jnp.exp(0.3 * log)


def _weights(x, displacement, spread, padding_value=None, clamp=False):
  """Weights along the last axis in float64, by the log of the product of densities."""
  x, displacement, spread = (
    np.asarray(y, np.float64) for y in (x, displacement, spread)
  )
  n, M = x.shape[-1], len(displacement)
  out = np.zeros(x.shape)
  for m in range(M):
    part = slice(m * (n // M), (m + 1) * (n // M) if m < M - 1 else n)
    z = x[..., part]
    known = z if padding_value is None else np.where(z == padding_value, 0, z)
    mean = known.mean(-1, keepdims=True)
    deviation = np.sqrt(known.var(-1, ddof=1, keepdims=True) + 1e-8)
    log = np.zeros(z.shape)
    for d, c in zip(displacement[m], spread[m]):
      y = (z - mean - d) / deviation
      log += -(y**2) / (2 * c**2) - 0.5 * np.log(2 * np.pi * c**2)
    product = np.exp(log - (0 if clamp else log.max(-1, keepdims=True)))
    total = product.sum(-1, keepdims=True)
    out[..., part] = product / (np.maximum(total, 1e-8) if clamp else total)
  return out


@functools.partial(jax.jit, static_argnames=("axis", "padding_value", "clamp"))
def _run(x, displacement, spread, **options):
  return gaam.attend(x, displacement, spread, return_weights=True, **options)


def _close(got, want, rtol=2e-4, atol=1e-6):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


class FunctionTest(parameterized.TestCase):
  def test_by_hand(self):
    x, some = _draw(2, 3, 14), _gaussians(4, 3)
    out, weights = _run(x, *some)
    want = _weights(x, *some)
    _close(weights, want)
    _close(out, x * want)
    first = np.asarray(weights)[..., :3].sum(-1)  # the first chunk, and the last
    _close(first, 1.0)
    _close(np.asarray(weights)[..., 9:].sum(-1), 1.0)
    out, weights = _run(x, *some, axis=0, padding_value=None)
    self.assertEqual(out.shape, x.shape)  # two entries of four heads, a chunk each
    _close(weights, 1.0)

  def test_padding_value_counts_and_stays(self):
    x, some = _draw(2, 12).at[:, ::5].set(0.5), _gaussians(2, 2)
    out, weights = _run(x, *some, padding_value=0.5)
    want = _weights(x, *some, padding_value=0.5)
    _close(weights, want)
    _close(out, np.where(np.asarray(x) == 0.5, 0.5, x * want))
    self.assertGreater(float(weights[0, 0]), 0.0)

  def test_clamp_where_densities_are_small(self):
    x = (
      _draw(3, 10).at[1].mul(1e-6)
    )  # so far from its displacements that products vanish
    some = jnp.array([[0.002], [0.001]]), jnp.array([[1.0], [0.5]])
    _, weights = _run(x, *some, clamp=True)
    _close(weights, _weights(x, *some, clamp=True), atol=1e-12)
    self.assertLess(float(weights[1].sum()), 0.1)
    _, weights = _run(x, *some)
    _close(weights, _weights(x, *some))
    _close(weights.sum(-1), 2.0)

  def test_far_offsets_of_a_flat_chunk(self):
    x, some = 1e-5 * _draw(1, 6), (jnp.array([[3.0]]), jnp.array([[20.0]]))
    _, weights = _run(x, *some)
    z = np.asarray(x[0], np.float64)
    far = z - z.mean()
    log = -far * (far - 6) / (2 * 400 * (z.var(ddof=1) + 1e-8))
    want = np.exp(log - log.max())
    _close(weights[0], want / want.sum(), rtol=1e-3)
    self.assertGreater(float(weights.max() / weights.min()), 1.01)

  def test_what_changes_nothing(self):
    x, (displacement, spread) = _draw(2, 9), _gaussians(1, 3)
    _, weights = _run(x, displacement, spread)
    _close(_run(x + 3.0, displacement, spread)[1], weights, rtol=1e-3)
    _close(_run(x, displacement, -spread)[1], weights)
    order = np.random.default_rng(0).permutation(9)
    _close(_run(x[:, order], displacement, spread)[1], weights[:, order])
    # K equal Gaussians are one with c / sqrt(K).
    same = jnp.full((1, 3), 0.7), jnp.full((1, 3), 1.5)
    one = jnp.full((1, 3), 0.7)[:, :1], jnp.full((1, 1), 1.5 / 3**0.5)
    _close(_run(x, *same)[1], _run(x, *one)[1])
    _close(_run(x, displacement, 1e4 + spread)[1], 1 / 9)
    _close(
      _run(5.0 * x, 0.0 * displacement, spread)[1],
      _run(x, 0.0 * displacement, spread)[1],
    )

  def test_documents_are_cut_by_their_own_length(self):
    x, some = _draw(2, 19, 3), _gaussians(3, 2)
    ids = np.array([[-1] + [4] * 5 + [-1] + [4] * 4 + [2] * 8, [0] * 19])
    out, weights = _run(x, *some, axis=1, segment_ids=jnp.asarray(ids))
    for row, places in ((0, np.r_[1:6, 7:11]), (0, np.r_[11:19]), (1, np.r_[:19])):
      want = _weights(x[row, places].T, *some).T
      _close(weights[row, places], want)
      _close(out[row, places], x[row, places] * want)
    np.testing.assert_array_equal(out[0, np.r_[0, 6]], 0)
    valid = jnp.arange(19)[None] < jnp.array([[19], [7]])
    _, weights = _run(x, *some, axis=1, valid=valid)
    _close(weights[1, :7], _weights(x[1, :7].T, *some).T)

  @parameterized.parameters(
    ({"axis": 2}, r"axis = 2: x \(2, 4\)"),
    ({"axis": 0, "valid": jnp.ones((2, 2), bool)}, "no documents"),
    ({"impl": "pallas"}, "unknown impl"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      gaam.attend(jnp.ones((2, 4)), *_gaussians(1, 1), **options)


def _layer(form="causal", **options) -> Any:
  layer: Any = gaam.Layer(8, form=form, **{"heads": 2} | options, rngs=nnx.Rngs(0))
  layer.gaussians.displacement = nnx.Param(_draw(2, 4))
  for part in () if layer.qkv is None else (layer.qkv.query, layer.qkv.key):
    part.kernel = nnx.Param(50 * part.kernel[...])
  return layer


def _softmax(q, k, v, past):
  """Attention of heads (T, N, H) in float64."""
  out = np.zeros(v.shape)
  for t, n in np.ndindex(*q.shape[:2]):
    seen = slice(0, t + 1 if past else len(k))
    score = k[seen, n] @ q[t, n] / q.shape[-1] ** 0.5
    weight = np.exp(score - score.max())
    out[t, n] = weight @ v[seen, n] / weight.sum()
  return out


class LayerTest(parameterized.TestCase):
  @parameterized.parameters("input", "key", "value")
  def test_around_softmax_attention(self, where):
    layer, x = _layer(apply_to=where, rope_theta=0.0), _draw(1, 6, 8)
    some = layer.gaussians.displacement[...], layer.gaussians.spread[...]

    def added(y, name):
      flat = y.reshape(len(y), -1)
      weighed = flat + flat * _weights(flat, *some)
      return weighed.reshape(y.shape) if name == where else y

    x64 = added(np.asarray(x[0], np.float64), "input")
    parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
    q, k, v = (np.tensordot(x64, np.asarray(p.kernel[...]), 1) for p in parts)
    out = _softmax(q, added(k, "key"), added(v, "value"), True)
    want = np.tensordot(out, np.asarray(layer.out.kernel[...]), 2)
    got = jax.jit(lambda x: layer(x))(x)
    _close(got[0], want, rtol=1e-3, atol=1e-6)
    with self.assertRaisesRegex(NotImplementedError, "no rotation"):
      layer(x, positions=jnp.arange(6))

  def test_decodes_around_softmax_attention(self):
    layer, x = _layer(apply_to="key", attention_heads=4), _draw(2, 6, 8)
    ids = jnp.array([[1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, -1]])
    self.assertEqual(layer.shape, (4, 2))
    step = jax.jit(lambda x, cache, ids: layer.step(x, cache, segment_ids=ids))
    cache, out = layer.init_cache(2, 6), []
    for part in (slice(0, 3), slice(3, 6)):
      y, cache = step(x[:, part], cache, ids[:, part])
      out.append(y)
    got = jnp.concatenate(out, axis=1)
    want = jax.jit(lambda x: layer(x, segment_ids=ids))(x)
    _close(got[ids >= 0], want[ids >= 0], atol=1e-5)

  def test_along_tokens_documents_do_not_meet(self):
    layer, x = _layer("sequence", axis="tokens"), _draw(1, 11, 8)
    some = layer.gaussians.displacement[...], layer.gaussians.spread[...]
    ids = jnp.array([[3] * 6 + [-1] + [5] * 4])
    y = jax.jit(lambda x: layer(x, segment_ids=ids))(x.at[0, 6].set(jnp.nan))
    for places in (np.r_[:6], np.r_[7:11]):
      own = x[0, places]
      _close(y[0, places], own * _weights(own.T, *some).T)

  def test_along_all_points_of_an_image(self):
    layer, x = _layer("image", axis="tokens"), _draw(1, 3, 4, 8)
    some = layer.gaussians.displacement[...], layer.gaussians.spread[...]
    rows = np.asarray(x).reshape(12, 8)
    want = (rows * _weights(rows.T, *some).T).reshape(x.shape)
    _close(jax.jit(lambda x: layer(x))(x), want)

  def test_refusals(self):
    with self.assertRaisesRegex(ValueError, "later tokens"):
      _layer(axis="tokens")
    with self.assertRaisesRegex(ValueError, "heads = 9: 8 features"):
      _layer(heads=9)
    with self.assertRaisesRegex(NotImplementedError, "know no places"):
      _layer()(jnp.ones((1, 3, 8)), positions=jnp.arange(3))
    with self.assertRaisesRegex(NotImplementedError, "of features"):
      _layer().weights(jnp.ones((1, 3, 8)))
    with self.assertRaisesRegex(NotImplementedError, "does not decode"):
      _layer("sequence").init_cache(1, 3)

  def test_what_is_drawn(self):
    layer: Any = gaam.Layer(512, form="causal", heads=500, rngs=nnx.Rngs(0))
    self.assertEqual(layer.gaussians.displacement.shape, (500, 4))
    self.assertFalse(layer.gaussians.displacement[...].any())
    log = np.log(layer.gaussians.spread[...])
    self.assertAlmostEqual(float(log.mean()), 0, delta=0.1)
    self.assertAlmostEqual(float(log.std()), 1, delta=0.05)
    default: Any = gaam.Layer(8, form="causal", rngs=nnx.Rngs(0))
    self.assertEqual(default.gaussians.displacement.shape, (4, 4))
    self.assertIsNone(default.qkv)


class BlockTest(absltest.TestCase):
  def test_layers_follow_each_other(self):
    x, made = _draw(2, 6, 9), {"norm_axes": (1, -1), "heads": (2, 3)}
    made |= {"gaussians": (2, 1), "rngs": nnx.Rngs(0)}
    whole, bare = gaam.GaussianBlock(**made), gaam.GaussianBlock(**made, residual=False)
    for module in (whole, bare):
      y = np.asarray(x, np.float64)
      for layer, axis in zip(module.layers, (1, 2)):
        turned = y.swapaxes(axis, -1)
        weights = _weights(turned, layer.displacement[...], layer.spread[...])
        out = (turned * weights).swapaxes(axis, -1)
        y = y + out if module is whole else out
      _close(jax.jit(module.__call__)(x), y)
    with self.assertRaisesRegex(ValueError, "one a layer"):
      gaam.GaussianBlock((1,), (2, 3), (1, 1), rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, "gaussians = 0"):
      block.Gaussians(1, 0, rngs=nnx.Rngs(0))

  def test_importance(self):
    weights = jnp.array([[[0.1, 0.5, 0.2], [0.3, 0.7, 0.2]]])
    _close(gaam.importance(weights), [0.0, 1.0, 0.0])
    _close(gaam.importance(weights, axis=1), [0.0, 1.0])
    _close(gaam.importance(jnp.ones((2, 3))), [0.0, 0.0, 0.0])


if __name__ == "__main__":
  absltest.main()
