"""The tiled form against the definition: any tile, any type, any derivative."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks, softmax

_KEY = jax.random.key(5)


def _arrays(T=33, S=47, N=4, K=2, H=8, V=6, dtype="float32") -> Any:
  shapes = {"q": (2, T, N, H), "k": (2, S, K, H), "v": (2, S, K, V)}
  shapes["bias"] = (1, N, T, S)
  keys = jax.random.split(_KEY, 4)
  return {
    name: jax.random.normal(key, shape, dtype)
    for key, (name, shape) in zip(keys, shapes.items())
  }


def _mask(T=33, S=47):
  """Causal, packed, with holes: rows 0 to 3 of the second batch see nothing."""
  ids = jnp.stack([jnp.arange(T) // 20, jnp.where(jnp.arange(T) < 4, -1, 0)])
  kv_ids = jnp.stack([jnp.arange(S) // 20, jnp.zeros(S, jnp.int32)])
  holes = jax.random.bernoulli(_KEY, 0.8, (1, 4, T, S))
  return masks.conjunction((2, 4, T, S), True, 9, ids, kv_ids, holes)


def _loss(function, mask, **options):
  def loss(arrays):
    out, lse = function(**arrays, mask=mask, **options)
    lse = jnp.where(jnp.isfinite(lse), lse, 0)
    return jnp.sin(out).sum() + jnp.cos(lse).sum()

  return loss


class ChunkedTest(parameterized.TestCase):
  @parameterized.parameters(
    *[(tile,) for tile in ((1, 1), (7, 64), (64, 7), (33, 47), (32, 46), (999, 999))]
  )
  def test_any_tile_gives_the_definition(self, tile):
    arrays, mask = _arrays(), _mask()
    want = softmax.reference(**arrays, mask=mask)
    got = softmax.chunked(**arrays, mask=mask, tile=tile)
    jax.tree.map(_close, got, want)
    loss = _loss(softmax.chunked, mask, tile=tile)
    got = jax.jit(jax.grad(loss))(arrays)
    want = jax.jit(jax.grad(_loss(softmax.reference, mask)))(arrays)
    jax.tree.map(_close, got, want)

  def test_no_bias_no_mask(self):
    arrays = _arrays()
    del arrays["bias"]
    want = softmax.reference(**arrays)
    jax.tree.map(_close, softmax.chunked(**arrays, tile=(8, 16)), want)

  def test_float64(self):
    with jax.enable_x64(True):
      arrays, mask = _arrays(dtype="float64"), _mask()
      for tile in ((7, 11), None):
        got = softmax.chunked(**arrays, mask=mask, tile=tile)
        want = softmax.reference(**arrays, mask=mask)
        for g, w in zip(got, want):
          self.assertEqual(g.dtype, jnp.float64)
          np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-13)
      got = jax.grad(_loss(softmax.chunked, mask, tile=(7, 11)))(arrays)
      want = jax.grad(_loss(softmax.reference, mask))(arrays)
      for name in arrays:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-11)

  def test_bfloat16_sums_in_float32(self):
    # 4096 equal weights: a bfloat16 sum of ones would stop growing at 256.
    shape = (1, 4096, 1, 4)
    q = k = v = jnp.ones(shape, jnp.bfloat16)
    run = functools.partial(softmax.chunked, tile=(256, 512))
    (out, lse), pull = jax.vjp(jax.jit(run), q, k, v)
    self.assertEqual((out.dtype, lse.dtype), (jnp.bfloat16, jnp.float32))
    np.testing.assert_allclose(lse, 2 + np.log(4096), rtol=1e-6)
    _, _, dv = pull((jnp.ones_like(out), jnp.zeros_like(lse)))
    self.assertEqual(dv.dtype, jnp.bfloat16)
    np.testing.assert_array_equal(dv.astype(jnp.float32), 1)

  def test_bfloat16_is_the_float32_answer_rounded(self):
    rough, mask = _arrays(dtype="bfloat16"), _mask()
    exact = jax.tree.map(lambda x: x.astype("float32"), rough)
    out, lse = softmax.chunked(**rough, mask=mask, tile=(8, 16))
    want, want_lse = softmax.reference(**exact, mask=mask)
    np.testing.assert_allclose(out.astype("float32"), want, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-4, atol=1e-4)

  def test_jvp(self):
    arrays, mask = _arrays(), _mask()
    tangents = jax.tree.map(
      lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), arrays
    )

    def derivative(function, **options):
      run = functools.partial(function, mask=mask, **options)
      return jax.jvp(lambda a: run(**a), (arrays,), (tangents,))

    got = derivative(softmax.chunked, tile=(8, 16))
    jax.tree.map(_close, got, derivative(softmax.reference))

  def test_vmap_of_arrays_and_of_masks(self):
    arrays = _arrays(T=9, S=9)
    stacked = jax.tree.map(lambda x: jnp.stack([x, -x, 2 * x]), arrays)
    offsets = jnp.array([-2, 0, 3])

    def run(function, arrays, offset, **options):
      return function(**arrays, mask=masks.Mask(True, offset), **options)

    got = jax.vmap(functools.partial(run, softmax.chunked, tile=(4, 4)))(
      stacked, offsets
    )
    for i in range(3):
      one = jax.tree.map(lambda x, i=i: x[i], stacked)
      want = run(softmax.reference, one, offsets[i])
      jax.tree.map(_close, jax.tree.map(lambda x, i=i: x[i], got), want)

  def test_gradient_under_vmap_with_an_offset_of_each_example(self):
    arrays = {n: x[:, None] for n, x in _arrays().items() if n != "bias"}
    offsets = jnp.array([-3, 20])

    def loss(arrays, offset):
      mask = masks.Mask(causal=True, offset=offset)
      return jnp.sin(softmax.chunked(**arrays, mask=mask, tile=(8, 8))[0]).sum()

    got = jax.jit(jax.vmap(jax.grad(loss)))(arrays, offsets)
    single = jax.jit(jax.grad(loss))
    for i, offset in enumerate(offsets):
      want = single(jax.tree.map(lambda x, i=i: x[i], arrays), offset)
      for name in want:
        np.testing.assert_allclose(got[name][i], want[name], rtol=1e-4, atol=1e-5)

  def test_second_derivatives(self):
    with jax.enable_x64(True):
      arrays = _arrays(T=5, S=6, N=2, K=1, H=2, V=2, dtype="float64")
      arrays = jax.tree.map(lambda x: x[:1], arrays)
      mask = masks.Mask(True, jnp.array(-1))  # the first row sees nothing
      tiled = _loss(softmax.chunked, mask, tile=(2, 3))
      whole = _loss(softmax.reference, mask)

      def slope(loss):
        def turn(arrays):
          leaves = jax.tree.leaves(jax.grad(loss)(arrays))
          return sum(jnp.sum(jnp.sin(x)) for x in leaves)

        return turn

      pairs = [(jax.hessian(f), jax.grad(slope(f))) for f in (tiled, whole)]
      for got, want in zip(*pairs):
        got, want = jax.jit(got)(arrays), jax.jit(want)(arrays)
        jax.tree.map(
          lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-8, atol=1e-10),
          got,
          want,
        )

  def test_memory_of_forward_and_backward_is_linear(self):
    def bytes_needed(function, T):
      shape = jax.ShapeDtypeStruct((1, T, 4, 16), jnp.float32)
      run = jax.grad(lambda q, k, v: function(q, k, v, mask=mask)[0].sum(), (0, 1, 2))
      mask = masks.Mask(causal=True)
      compiled: Any = jax.jit(run).lower(shape, shape, shape).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    # Beyond the one tile, which does not grow.
    one, two, four = (bytes_needed(softmax.chunked, n * 1024) for n in (1, 2, 4))
    self.assertLess(two, 2.5 * one)
    self.assertLess(four, 2.5 * two)
    self.assertGreater(bytes_needed(softmax.reference, 2048), 5 * two)

  def test_tiles_of_the_default_sizes(self):
    self.assertEqual(softmax._tile(64), (64, 256))
    for heads in (1, 3, 8, 100, 4096):
      rows, columns = softmax._tile(heads)
      self.assertBetween(rows, 1, 512)
      self.assertBetween(columns, 1, 512)
      if heads <= 128:
        self.assertLessEqual(heads * rows * columns, softmax.TILE)

  def test_a_row_of_nan_is_not_hidden(self):
    arrays = _arrays()
    arrays["q"] = arrays["q"].at[0, 3].set(jnp.nan)
    for impl in softmax.IMPLEMENTATIONS:
      out, lse = softmax.attend(**arrays, impl=impl)
      self.assertTrue(jnp.isnan(out[0, 3]).all() and jnp.isnan(lse[0, 3]).all())
      self.assertTrue(jnp.isfinite(out[1]).all() and jnp.isfinite(lse[1]).all())

  def test_unknown_implementation(self):
    arrays = _arrays()
    with self.assertRaisesRegex(ValueError, "impl 'fast' is none of auto, reference"):
      softmax.attend(**arrays, impl="fast")


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=3e-5)


if __name__ == "__main__":
  absltest.main()
