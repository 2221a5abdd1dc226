"""Against jax.nn, and what that one does not define: empty rows, caches, errors."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import attention
from attnjax.core import masks
from attnjax.variants.softmax import dot_product

_KEY = jax.random.key(11)
_IMPLS = parameterized.parameters(*dot_product.IMPLEMENTATIONS)


def _arrays(T=21, S=21, N=4, K=2, H=8):
  shapes = (2, T, N, H), (2, S, K, H), (2, S, K, H)
  keys = jax.random.split(_KEY, 3)
  return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes)]


def _layer(**options) -> Any:
  return dot_product.Layer(
    16, kv_heads=2, rngs=nnx.Rngs(0), **{"form": "causal"} | options
  )


def _x(tokens=9):
  return jax.random.normal(_KEY, (2, tokens, 16))


class SimulatedTest(parameterized.TestCase):
  """Kernels run in simulators, which are slow: few shapes, each once."""

  def setUp(self):
    super().setUp()
    self.enter_context(simulate.accelerators(detect_races=False))


class AgainstJaxTest(SimulatedTest):
  @parameterized.product(
    # The kernels on the same kinds of problems: tests/flash/conformance_test.py.
    impl=("reference", "xla"),
    options=[
      {"N": 2, "K": 2},
      {"causal": True},
      {"causal": True, "T": 1, "S": 1, "N": 1, "K": 1},
      {"bias": (2, 4, 21, 21), "scale": 0.7},
      {"bias": (1, 4, 1, 21), "causal": True},
      {"mask": (2, 1, 13, 29), "T": 13, "S": 29},
      {"mask": (1, 4, 13, 29), "bias": (2, 1, 13, 29), "T": 13, "S": 29},
    ],
  )
  def test_equals_jax_nn(self, impl, options):
    sizes = {n: options[n] for n in "TSNK" if n in options}
    q, k, v = _arrays(**sizes)
    causal, scale = options.get("causal", False), options.get("scale")
    mask, bias = None, jnp.zeros((1, 1, 1, 1))
    if "mask" in options:  # every row sees its first key: jax.nn has no empty rows
      mask = jax.random.bernoulli(_KEY, 0.5, options["mask"]).at[..., 0].set(True)
    if "bias" in options:
      bias = jax.random.normal(_KEY, options["bias"])

    def ours(q, k, v, bias):
      return dot_product.attend(
        q, k, v, causal=causal, mask=mask, bias=bias, scale=scale, impl=impl
      )

    def jaxs(q, k, v, bias):
      bias = jnp.broadcast_to(bias, (2, q.shape[2], q.shape[1], k.shape[1]))
      return jax.nn.dot_product_attention(
        q, k, v, bias, mask, scale=scale, is_causal=causal
      )

    for got, want in zip(
      *(_value_and_gradients(f, q, k, v, bias) for f in (ours, jaxs))
    ):
      _close(got, want)

  @_IMPLS
  def test_lse_and_its_gradient(self, impl):
    q, k, v = _arrays(K=4)

    def ours(q, k):
      return dot_product.attend(q, k, v, causal=True, return_lse=True, impl=impl)[1]

    def definition(q, k):
      score = jnp.einsum("btnh,bsnh->btns", q, k) / np.sqrt(8)
      seen = jnp.tril(jnp.ones((21, 21), bool))[:, None]
      return jax.nn.logsumexp(jnp.where(seen, score, -jnp.inf), axis=-1)

    pairs = zip(*(_value_and_gradients(f, q, k) for f in (ours, definition)))
    for got, want in pairs:
      _close(got, want)


class MaskTest(SimulatedTest):
  @_IMPLS
  def test_causal_is_aligned_bottom_right(self, impl):
    q, k, v = _arrays(T=5, S=12)
    got = jax.jit(functools.partial(dot_product.attend, causal=True, impl=impl))(
      q, k, v
    )
    for t in range(5):
      end = t + 12 - 5 + 1
      alone = dot_product.attend(q[:, t : t + 1], k[:, :end], v[:, :end])
      _close(got[:, t : t + 1], alone)

  @_IMPLS
  def test_offset_moves_the_diagonal(self, impl):
    q, k, v = _arrays(T=5, S=12)
    got = dot_product.attend(q, k, v, causal=True, offset=jnp.array(3), impl=impl)
    want = dot_product.attend(q, k[:, :8], v[:, :8], causal=True, impl=impl)
    _close(got, want)

  @parameterized.product(
    impl=dot_product.IMPLEMENTATIONS, kind=["causal", "segments", "mask", "bias"]
  )
  def test_rows_that_see_nothing(self, impl, kind):
    q, k, v = _arrays(T=12, S=5) if kind == "causal" else _arrays(T=12, S=12)
    options: Any = {
      "causal": {"causal": True},
      "segments": {
        "segment_ids": jnp.where(jnp.arange(12) < 7, -1, 0)[None].repeat(2, 0)
      },
      "mask": {"mask": (jnp.arange(12) >= 7)[None, None, :, None]},
      "bias": {
        "bias": jnp.where(jnp.arange(12) < 7, -jnp.inf, 0.0)[None, None, :, None]
      },
    }[kind]

    def run(q, k, v):
      return dot_product.attend(q, k, v, **options, return_lse=True, impl=impl)

    @jax.jit
    def pulled(cotangents):
      results, pull = jax.vjp(run, q, k, v)
      return results, pull(cotangents)

    ones = jnp.ones_like(q), jnp.ones(q.shape[:3])
    (out, lse), gradients = pulled(ones)
    np.testing.assert_array_equal(out[:, :7], 0)
    np.testing.assert_array_equal(lse[:, :7], -np.inf)
    self.assertTrue(jnp.isfinite(lse[:, 7:]).all())
    # Cotangents on the empty rows alone: nothing may come back.
    empty = jnp.arange(12)[:, None] < 7
    at_empty = jax.tree.map(jnp.multiply, ones, (1.0 * empty[..., None], 1.0 * empty))
    for gradient in pulled(at_empty)[1]:
      np.testing.assert_array_equal(gradient, 0)
    for gradient in gradients:
      self.assertTrue(jnp.isfinite(gradient).all())
      self.assertGreater(jnp.abs(gradient).max(), 0)

  def test_segments_are_a_mask(self):
    q, k, v = _arrays()
    ids = jax.random.randint(_KEY, (2, 21), -1, 3)
    mask = (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] >= 0)
    got = dot_product.attend(q, k, v, segment_ids=ids, causal=True)
    _close(got, dot_product.attend(q, k, v, mask=mask[:, None], causal=True))

  @parameterized.parameters("reference", "xla")
  def test_a_mask_of_the_algebra_is_its_dense_array(self, impl):
    q, k, v = _arrays()
    index = jnp.array([[[2, 0], [0, 1]], [[1, 0], [2, 1]]] * 2)[None]
    mask = masks.Blocks(index, jnp.array([[[2, 1]] * 4]), 16, 8, 21, 21)
    got, want = (
      dot_product.attend(q, k, v, mask=given, causal=True, impl=impl)
      for given in (mask, mask.dense(21, 21))
    )
    _close(got, want)
    with self.assertRaisesRegex(ValueError, "lists of blocks.*do not fit"):
      dot_product.attend(q, k[:, :9], v[:, :9], mask=mask, impl=impl)

  def test_nan_in_what_nobody_sees_passes_nowhere(self):
    q, k, v = _arrays(T=9, S=9)
    bad, mask = jnp.nan, (jnp.arange(9) != 4)[None, None, None]
    for impl in dot_product.IMPLEMENTATIONS:
      run = jax.jit(functools.partial(dot_product.attend, mask=mask, impl=impl))
      clean = run(q, k, v)
      by_key = run(q, k.at[:, 4].set(bad), v)
      by_value = run(q, k, v.at[:, 4].set(bad))
      _close(by_key, clean)
      if impl in ("reference", "xla"):
        _close(by_value, clean)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"k": (2, 7, 2, 6)}, r"q \(2, 5, 4, 8\) and k \(2, 7, 2, 6\) differ in B or H"),
    ({"v": (2, 6, 2, 8)}, r"k \(2, 7, 2, 8\) and v \(2, 6, 2, 8\) differ in B, S or K"),
    ({"k": (2, 7, 3, 8), "v": (2, 7, 3, 8)}, "4 query heads do not divide by 3 kv"),
    ({"bias": (2, 3, 5, 7)}, r"bias \(2, 3, 5, 7\) does not broadcast to .*4, 5, 7"),
    ({"mask": (2, 3, 5, 7)}, r"mask \(2, 3, 5, 7\) does not broadcast to .*4, 5, 7"),
    ({"segment_ids": (2, 5)}, r"kv_segment_ids has the shape \(2, 5\); .* \(2, 7\)"),
    ({"kv_segment_ids": (2, 7)}, "kv_segment_ids without segment_ids"),
  )
  def test_shapes(self, changes, message):
    shapes = {"q": (2, 5, 4, 8), "k": (2, 7, 2, 8), "v": (2, 7, 2, 8)} | changes
    kinds = {"mask": bool, "segment_ids": int, "kv_segment_ids": int}
    arrays: Any = {n: jnp.ones(s, kinds.get(n, "f4")) for n, s in shapes.items()}
    # The checks of the values, without those of the annotations.
    attend, inner = (
      getattr(module.attend, "__wrapped__", module.attend)
      for module in (dot_product, attention)
    )
    with (
      mock.patch.object(attention, "attend", inner),
      self.assertRaisesRegex(ValueError, message),
    ):
      attend(**arrays, impl="reference")

  def test_a_mask_of_numbers_is_refused(self):
    attend = getattr(dot_product.attend, "__wrapped__", dot_product.attend)
    with self.assertRaisesRegex(ValueError, "mask has the type float32.*boolean"):
      attend(*_arrays(), mask=jnp.ones((1, 1, 21, 21)))

  def test_form_and_padding(self):
    with self.assertRaisesRegex(ValueError, "unknown form 'casual'.*mean causal"):
      _layer(form="casual")
    with self.assertRaisesRegex(ValueError, r"form 'image' takes 4 axes"):
      _layer(form="image")(_x())
    layer = _layer(form="image")
    ids = jnp.zeros((1, 9), jnp.int32)
    with self.assertRaisesRegex(NotImplementedError, "'image' takes no segment_ids"):
      layer(jnp.zeros((1, 3, 3, 16)), segment_ids=ids)


class DecodingTest(absltest.TestCase):
  def test_a_cache_that_is_too_short_raises_where_it_can(self):
    layer = _layer()
    with self.assertRaisesRegex(ValueError, "9 tokens do not fit a cache of length 8"):
      layer.step(_x(), layer.init_cache(2, 8))

  def test_overflow_gives_nan_and_stays_nan(self):
    layer = _layer()
    step = jax.jit(lambda x, cache: layer.step(x, cache))
    y, cache = step(_x(6), layer.init_cache(2, 8))
    self.assertTrue(jnp.isfinite(y).all())
    for tokens in (3, 1):
      y, cache = step(_x(tokens), cache)
      self.assertTrue(jnp.isnan(y).all())

  def test_the_last_place_is_not_an_overflow(self):
    layer = _layer()
    y, cache = layer.step(_x(8), layer.init_cache(2, 9))
    y, _ = layer.step(_x(1), cache)
    self.assertTrue(jnp.isfinite(y).all())

  def test_left_padding_changes_nothing(self):
    layer, x = _layer(), _x()
    step = jax.jit(lambda x, cache, **more: layer.step(x, cache, **more))
    padded = jnp.concatenate([jnp.full((2, 4, 16), 9.0), x], axis=1)
    real = jnp.arange(13) >= jnp.array([4, 4])[:, None]
    cache, parts = layer.init_cache(2, 13), []
    for a, b in ((0, 6), (6, 7), (7, 13)):
      y, cache = step(padded[:, a:b], cache, valid=real[:, a:b])
      parts.append(y)
    _close(jnp.concatenate(parts, axis=1)[:, 4:], layer(x))

  def test_the_image_form_sees_everything_in_row_order(self):
    image = jax.random.normal(_KEY, (2, 3, 5, 16))
    got = _layer(form="image")(image)
    want = _layer(form="sequence")(image.reshape(2, 15, 16))
    _close(got.reshape(2, 15, 16), want)


def _value_and_gradients(function, *arrays):
  out, pull = jax.vjp(jax.jit(function), *arrays)
  return out, *pull(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
