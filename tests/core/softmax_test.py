"""The tiled form against the definition: any tile, any type, any derivative."""

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks, softmax
from attnjax.core.scores import Scores
from attnjax.core.softmax import xla_dense as whole
from attnjax.core.softmax.tiling import Tiles
from tests import precision

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


def _call(function, arrays, mask=None, **options):
  arrays = dict(arrays)
  scores = Scores(
    masks.And(()) if mask is None else mask, bias=arrays.pop("bias", None)
  )
  return function(**arrays, scores=scores, **options)


def _tiles(rows, columns, **heads):
  return {"tiles": (Tiles(rows, columns, **heads), Tiles(columns, rows, **heads))}


def _loss(function, mask, **options):
  def loss(arrays):
    out, lse = _call(function, arrays, mask, **options)
    lse = jnp.where(jnp.isfinite(lse), lse, 0)
    return jnp.sin(out).sum() + jnp.cos(lse).sum()

  return loss


def _all(function, arrays, mask=None, **options):
  """((out, lse), gradients), in one compiled function."""

  def loss(arrays):
    out, lse = _call(function, arrays, mask, **options)
    finite = jnp.where(jnp.isfinite(lse), lse, 0)
    return jnp.sin(out).sum() + jnp.cos(finite).sum(), (out, lse)

  (_, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
  return out, gradients


def _run(function, arrays, mask=None, **options):
  """(out, lse), compiled."""
  return jax.jit(lambda arrays: _call(function, arrays, mask, **options))(arrays)


class ChunkedTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.want = _all(softmax.reference, _arrays(), _mask())

  @parameterized.parameters((1, 1), (7, 64), (64, 7), (33, 47), (32, 46), (999, 999))
  def test_any_tile_gives_the_definition(self, *tile):
    got = _all(softmax.chunked, _arrays(), _mask(), **_tiles(*tile))
    jax.tree.map(_close, got, self.want)

  @parameterized.parameters(whole.STEP, 4 * 33 * 47, 1)
  def test_whole_matrices_in_any_number_of_steps(self, step):
    with mock.patch.object(whole, "STEP", step):
      got = _all(softmax.chunked, _arrays(), _mask())
    jax.tree.map(_close, got, self.want)

  def test_whole_matrices_of_examples_that_fill_no_last_step(self):
    arrays = {n: x for n, x in _arrays().items() if n != "bias"}
    more = jax.tree.map(lambda x: jnp.concatenate([x, -x, x[:1]]), arrays)
    keys = jax.random.split(_KEY, 2)
    more["bias"] = jax.random.normal(keys[0], (5, 1, 33, 47))
    ids = jnp.arange(33)[None] // jnp.array([[3], [5], [8], [9], [20]])
    mask = masks.Segments(ids, jnp.arange(47)[None] // 8)
    with mock.patch.object(whole, "STEP", 2 * 4 * 33 * 47):
      got = _all(softmax.chunked, more, mask)
    jax.tree.map(_close, got, _all(softmax.reference, more, mask))

  @parameterized.parameters(({},), (_tiles(8, 16),))
  def test_a_scale_of_nothing(self, tiles):
    arrays = {n: x for n, x in _arrays().items() if n != "bias"}
    got = _all(softmax.chunked, arrays, masks.Causal(9), scale=0.0, **tiles)
    want = _all(softmax.reference, arrays, masks.Causal(9), scale=0.0)
    jax.tree.map(_close, got, want)

  def test_no_bias_no_mask(self):
    arrays = _arrays()
    del arrays["bias"]
    want = _run(softmax.reference, arrays)
    jax.tree.map(_close, _run(softmax.chunked, arrays, **_tiles(8, 16)), want)

  def test_float64(self):
    with jax.enable_x64(True):
      arrays, mask = _arrays(dtype="float64"), _mask()
      got = _all(softmax.chunked, arrays, mask, **_tiles(7, 11))
      want = _all(softmax.reference, arrays, mask)
      for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        self.assertEqual(g.dtype, jnp.float64)
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-11)
      out = _run(softmax.chunked, arrays, mask)
      for g, w in zip(out, want[0]):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-13)

  def test_bfloat16_sums_in_float32(self):
    # 4096 equal weights: a bfloat16 sum of ones would stop growing at 256.
    shape = (1, 4096, 1, 4)
    q = k = v = jnp.ones(shape, jnp.bfloat16)
    run = functools.partial(softmax.chunked, **_tiles(256, 512))
    (out, lse), pull = jax.vjp(jax.jit(run), q, k, v)
    self.assertEqual((out.dtype, lse.dtype), (jnp.bfloat16, jnp.float32))
    np.testing.assert_allclose(lse, 2 + np.log(4096), rtol=1e-6)
    _, _, dv = pull((jnp.ones_like(out), jnp.zeros_like(lse)))
    self.assertEqual(dv.dtype, jnp.bfloat16)
    np.testing.assert_array_equal(dv.astype(jnp.float32), 1)

  def test_bfloat16_is_the_float32_answer_rounded(self):
    rough, mask = _arrays(dtype="bfloat16"), _mask()
    exact = jax.tree.map(lambda x: x.astype("float32"), rough)
    found = _run(softmax.chunked, rough, mask, **_tiles(8, 16))
    want, plain = (_run(softmax.reference, x, mask) for x in (exact, rough))
    self.assertLessEqual(precision.worst(found, want, plain), 1.0)

  def test_jvp(self):
    arrays, mask = _arrays(), _mask()
    tangents = jax.tree.map(
      lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), arrays
    )

    def derivative(function, **options):
      run = functools.partial(_call, function, mask=mask, **options)
      return jax.jit(lambda x, dx: jax.jvp(run, (x,), (dx,)))(arrays, tangents)

    got = derivative(softmax.chunked, **_tiles(8, 16))
    jax.tree.map(_close, got, derivative(softmax.reference))

  def test_vmap_of_arrays_and_of_masks(self):
    arrays = _arrays(T=9, S=9)
    stacked = jax.tree.map(lambda x: jnp.stack([x, -x, 2 * x]), arrays)
    offsets = jnp.array([-2, 0, 3])

    def run(function, arrays, offset, **options):
      return _call(function, arrays, masks.Causal(offset), **options)

    tiled = functools.partial(run, softmax.chunked, **_tiles(4, 4))
    got = jax.jit(jax.vmap(tiled))(stacked, offsets)
    single = jax.jit(functools.partial(run, softmax.reference))
    for i in range(3):
      one = jax.tree.map(lambda x, i=i: x[i], stacked)
      want = single(one, offsets[i])
      jax.tree.map(_close, jax.tree.map(lambda x, i=i: x[i], got), want)

  def test_gradient_under_vmap_with_an_offset_of_each_example(self):
    arrays = {n: x[:, None] for n, x in _arrays().items() if n != "bias"}
    offsets = jnp.array([-3, 20])

    def loss(arrays, offset):
      mask = masks.Causal(offset)
      return jnp.sin(_call(softmax.chunked, arrays, mask, **_tiles(8, 8))[0]).sum()

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
      mask = masks.Causal(jnp.array(-1))  # the first row sees nothing
      tiled = _loss(softmax.chunked, mask, **_tiles(2, 3))
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
      run = jax.grad(lambda q, k, v: function(q, k, v, scores)[0].sum(), (0, 1, 2))
      scores = Scores(masks.Causal())
      compiled: Any = jax.jit(run).lower(shape, shape, shape).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    # Beyond the one tile, which does not grow.
    one, two, four = (bytes_needed(softmax.chunked, n * 1024) for n in (1, 2, 4))
    self.assertLess(two, 2.5 * one)
    self.assertLess(four, 2.5 * two)
    self.assertGreater(bytes_needed(softmax.reference, 2048), 5 * two)

  def test_the_padding_of_queries_spreads_no_nan(self):
    """A key of NaN that no query sees: queries beyond T, of no document, see none."""
    T, S = 33, 4  # with 16 rows the last tile holds one query and 15 of padding
    arrays = _arrays(T, S)
    ids, kv_ids = jnp.ones((2, T), jnp.int32), jnp.asarray([[0, 1, 1, 1]] * 2)
    mask = masks.conjunction((2, 4, T, S), False, None, ids, kv_ids, None)
    bad = arrays | {n: arrays[n].at[:, 0].set(jnp.nan) for n in "kv"}
    run = functools.partial(_all, softmax.chunked, mask=mask, **_tiles(16, 16))
    for got, want in zip(jax.tree.leaves(run(bad)), jax.tree.leaves(run(arrays))):
      _close(got, want)

  @parameterized.parameters("float16", "bfloat16")
  def test_the_definition_sums_a_bias_gradient_in_float32(self, dtype):
    wide = _arrays(dtype=dtype) | {"bias": jnp.zeros((1, 1, 1, 1))}
    narrow = wide | {"bias": wide["bias"].astype(dtype)}
    grad = jax.jit(jax.grad(_loss(softmax.reference, None)))
    want, got = (grad(x)["bias"].astype(dtype) for x in (wide, narrow))
    np.testing.assert_array_equal(got, want)

  def test_a_row_of_nan_is_not_hidden(self):
    arrays = _arrays()
    arrays["q"] = arrays["q"].at[0, 3].set(jnp.nan)
    for function in (softmax.reference, softmax.chunked):
      out, lse = _run(function, arrays)
      self.assertTrue(jnp.isnan(out[0, 3]).all() and jnp.isnan(lse[0, 3]).all())
      self.assertTrue(jnp.isfinite(out[1]).all() and jnp.isfinite(lse[1]).all())

  @parameterized.parameters(((1, 1),), ((1, 3),), ((2, 3),))
  def test_units_of_heads(self, heads):
    arrays = _arrays(N=6, K=2)
    mask = masks.Causal(9)
    options = _tiles(16, 16, key_heads=heads[0], query_heads=heads[1])
    got = _all(softmax.chunked, arrays, mask, **options)
    jax.tree.map(_close, got, _all(softmax.reference, arrays, mask))

  def test_tiles_that_do_not_fit_the_heads(self):
    with self.assertRaisesRegex(ValueError, "key_heads=2, query_heads=1.*6 query"):
      _call(
        softmax.chunked, _arrays(N=6, K=2), **_tiles(8, 8, key_heads=2, query_heads=1)
      )

  @parameterized.parameters((8, 16), (16, 16), (16, 32), (32, 8))
  def test_lists_of_blocks_in_one_pass_or_in_both(self, forward, backward):
    arrays = {n: x for n, x in _arrays(T=33, S=47).items() if n != "bias"}
    lists = jnp.array([[[[0, 2], [1, 0], [2, 1]]]], jnp.int32)
    count = jnp.array([[[2, 0, 1]]], jnp.int32)
    mask = masks.Causal(14) & masks.Blocks(lists, count, 16, 16, 33, 47)
    tiles = Tiles(forward, forward), Tiles(backward, backward)
    got = _all(softmax.chunked, arrays, mask, tiles=tiles)
    jax.tree.map(_close, got, _all(softmax.reference, arrays, mask))
    tangents = jax.tree.map(jnp.cos, arrays)

    def derivative(function, **options):
      run = functools.partial(_call, function, mask=mask, **options)
      return jax.jit(lambda x, dx: jax.jvp(run, (x,), (dx,))[1][0])(arrays, tangents)

    _close(derivative(softmax.chunked, tiles=tiles), derivative(softmax.reference))

  def test_large_scores(self):
    # Beyond what sums of powers without a maximum could hold.
    arrays = {n: 300 * x for n, x in _arrays().items() if n != "bias"}
    for got, want in zip(
      _run(softmax.chunked, arrays, masks.Causal(9)),
      _run(softmax.reference, arrays, masks.Causal(9)),
    ):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-2)

  def test_parts_combine_to_the_whole(self):
    arrays = {n: x for n, x in _arrays().items() if n != "bias"}

    def split(arrays):
      parts = [
        softmax.chunked(
          arrays["q"],
          arrays["k"][:, a:b],
          arrays["v"][:, a:b],
          Scores(masks.Causal(9), start=(0, a)),
        )
        for a, b in ((0, 20), (20, 46), (46, 47))
      ]
      return softmax.combine(*zip(*parts))

    def whole(arrays):
      return _call(softmax.reference, arrays, masks.Causal(9))

    jax.tree.map(_close, jax.jit(split)(arrays), jax.jit(whole)(arrays))

    def loss(function):
      def total(arrays):
        out, lse = function(arrays)
        return jnp.sin(out).sum() + jnp.cos(lse).sum()

      return jax.jit(jax.grad(total))

    jax.tree.map(_close, loss(split)(arrays), loss(whole)(arrays))

  def test_combining_nothing_is_nothing(self):
    lses = jnp.full((2, 1, 3, 1), -jnp.inf).at[0, 0, 1].set(0.5)
    outs = jnp.ones((2, 1, 3, 1, 4))
    out, lse = softmax.combine(outs, lses)
    np.testing.assert_array_equal(out[0, :, 0, 0], [0, 1, 0])
    np.testing.assert_array_equal(lse[0, :, 0], [-jnp.inf, 0.5, -jnp.inf])
    grads = jax.grad(lambda x: softmax.combine(outs, x)[0].sum())(lses)
    self.assertTrue(jnp.isfinite(grads).all())


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=3e-5)


if __name__ == "__main__":
  absltest.main()
