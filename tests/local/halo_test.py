"""Halo attention: what the paper promises."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import softmax
from attnjax.core.masks import Dense
from attnjax.core.scores import Scores
from attnjax.variants.local import halo

_attend = functools.partial(
  jax.jit,
  static_argnames=("block", "halo", "stride", "mask_padding", "true_offsets"),
)(lambda q, k, v, **options: halo.attend(q, k, v, **options))


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _heads(*grid):
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (1, *grid, 2, 4)) for key in keys]


def _tables(block, border):
  shape = (2 * (block + 2 * border) - 1, 4)
  names = ("row_table", "column_table")
  return {n: jax.random.normal(jax.random.key(i), shape) for i, n in enumerate(names)}


def _masked(q, k, v, seen):
  flat = (x.reshape(1, -1, *x.shape[3:]) for x in (q, k, v))
  one, two, three = flat
  out, _ = softmax.reference(one, two, three, Scores(Dense(seen[None, None])))
  return out.reshape(v.shape)


class AttendTest(parameterized.TestCase):
  @parameterized.parameters((3, 0), (1, 2), (6, 0))
  def test_known_cases(self, block, border):
    q, k, v = _heads(6, 6)
    row, column = np.indices((6, 6)).reshape(2, -1)
    if border:  # every pixel has a window of its own
      near = [abs(x[:, None] - x) <= border for x in (row, column)]
    else:  # windows that do not overlap; the whole map is one
      near = [x[:, None] // block == x // block for x in (row, column)]
    got = _attend(q, k, v, block=block, halo=border, mask_padding=True)
    _close(got, _masked(q, k, v, jnp.asarray(near[0] & near[1])))

  def test_zeros_beyond_the_map_take_their_share(self):
    ones = jnp.ones((1, 3, 3, 1, 2))
    zero = jnp.zeros_like(ones)
    got = _attend(zero, zero, ones, block=1, halo=1)
    want = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
    _close(got[0, ..., 0, 0], want)
    got = _attend(zero, zero, ones, block=1, halo=1, mask_padding=True)
    _close(got, ones)

  def test_shifts_by_whole_blocks_shift_the_result(self):
    options: dict[str, Any] = {"block": 2, "halo": 1} | _tables(2, 1)
    heads = _heads(8, 6)
    out = _attend(*heads, **options)
    moved = _attend(*(jnp.roll(x, 2, axis=1) for x in heads), **options)
    _close(moved[:, 4:6], out[:, 2:4])

  def test_fewer_queries_are_a_part_of_all_queries(self):
    q, k, v = _heads(8, 6)
    options: dict[str, Any] = {"block": 4, "halo": 1} | _tables(4, 1)
    want = _attend(q, k, v, **options)[:, ::2, ::2]
    options |= {"stride": 2}
    got = _attend(q[:, ::2, ::2], k, v, **options, true_offsets=True)
    _close(got, want)
    timm = _attend(q[:, ::2, ::2], k, v, **options, true_offsets=False)
    self.assertGreater(float(abs(timm - want).max()), 1e-2)

  @parameterized.parameters(
    ({"block": 0}, "block = 0, halo = 1, stride = 1"),
    ({"block": 3, "stride": 2}, "stride must divide block"),
    ({"block": 2, "stride": 2}, r"must have \(2, 3\) rows and columns"),
    ({"block": 2, "row_table": jnp.zeros((7, 4))}, "both or none"),
    (
      {"block": 2, "row_table": jnp.zeros((6, 4)), "column_table": jnp.zeros((6, 4))},
      r"row_table \(6, 4\) must be \(7, 4\)",
    ),
  )
  def test_errors_name_the_value(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      halo.attend(*_heads(4, 6), halo=1, **options)


class LayerTest(absltest.TestCase):
  def test_weights_lie_in_the_window_of_the_block(self):
    layer = halo.Layer(8, heads=2, block=3, halo=1, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, 8))
    weights = jax.jit(lambda layer, x: contract.weights(layer, x))(layer, x)
    near = True
    for at in np.indices((5, 7)).reshape(2, -1):
      first = at[:, None] // 3 * 3 - 1
      near = near & (at >= first) & (at < first + 5)
    for head in np.asarray(weights[0]):
      np.testing.assert_array_equal(head > 0, near)

  def test_strides_halve_the_map(self):
    x = jax.random.normal(jax.random.key(1), (1, 6, 8, 8))
    whole = halo.Layer(8, heads=2, block=3, halo=1, rngs=nnx.Rngs(0))
    half = halo.Layer(8, heads=2, block=3, halo=1, stride=2, rngs=nnx.Rngs(0))
    full, got = jax.jit(lambda a, b, x: (a(x), b(x)))(whole, half, x)
    want = full.reshape(1, 3, 2, 4, 2, 8).mean((2, 4))
    _close(got, want)


class ModelTest(absltest.TestCase):
  def test_the_published_stages_have_4_8_8_and_8_heads(self):
    def shapes(images):
      options = halo.SIZES["h0"] | {"depths": (1, 1, 1, 1)}
      model: Any = halo.Model(3, 5, **options, rngs=nnx.Rngs(0))
      return model.weights(images, stats=model.init_stats())

    found = jax.eval_shape(shapes, jnp.zeros((1, 64, 32, 3)))
    # Of a stage's map of 16 x 8, 16 x 8, 8 x 4, 4 x 2 every second query on an axis.
    want = [(1, 4, 128, 128), (1, 8, 32, 128), (1, 8, 8, 32), (1, 8, 2, 8)]
    self.assertEqual([weights.shape for weights in found], want)

  def test_the_stem_pads_its_pooling_as_asked(self):
    # Convolution and norm change nothing, and leave a map of 4 x 4.
    numbers = jnp.arange(16.0).reshape(4, 4)
    images = jnp.zeros((1, 8, 8, 1)).at[0, ::2, ::2, 0].set(numbers)
    want = {"pixel": [[5, 7], [13, 15]], "same": [[10, 11], [14, 15]]}
    for padding, greatest in want.items():
      options = {"widths": (1,), "depths": (0,), "heads": (1,)}
      model: Any = halo.Model(1, 1, **options, stem_pool=padding, rngs=nnx.Rngs(0))
      stem = model.stem
      kernel = jnp.zeros((7, 7, 1, 1)).at[3, 3].set(1.0)
      stem.convolution.kernel[...] = kernel * np.sqrt(1 + 1e-5)
      got, _ = stem(images, stats=stem.init_stats())
      _close(got[0, ..., 0], jax.nn.silu(jnp.array(greatest, jnp.float32)))
    with self.assertRaisesRegex(ValueError, "unknown stem_pool 'valid'"):
      halo.Model(1, 1, stem_pool="valid", rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
