"""SpectFormer's filters and blocks: what the paper and its code promise."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import platform
from attnjax.variants.mixers import spectformer


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def _noisy(build) -> Any:
  """Returns a module with parameters of which none is 0 or 1."""
  draw = np.random.default_rng(0).standard_normal

  def drawn(path, leaf):
    one = "scale" in jax.tree_util.keystr(path)
    return np.asarray(0.4 * draw(leaf.shape) + one, np.float32)

  return jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(build))


def _block(style, **options) -> Any:
  return _noisy(
    lambda: spectformer.SpectralBlock(
      4, style=style, hidden=6, grid=(3, 2), **options, rngs=nnx.Rngs(0)
    )
  )


_run = jax.jit(lambda module, x, key=None: module(x, key=key))
_gate = jax.jit(spectformer.spectral_gate, static_argnames="method")


class GateTest(parameterized.TestCase):
  @parameterized.parameters("fft", "dft")
  def test_two_tokens_by_hand(self, method):
    # Sum and difference, 3 and -1, are multiplied by 5 and 2; imaginary parts are not
    # seen: both frequencies are their own mirror images.
    x = jnp.array([[[1.0], [2.0]]])
    response = jnp.array([[[5.0, 7.0]], [[2.0, -3.0]]])
    got = _gate(x, response, method=method)
    _close(got[0, :, 0], [(15 - 2) / 2, (15 + 2) / 2], 1e-6)

  @parameterized.parameters("fft", "dft")
  def test_three_tokens_by_hand(self, method):
    # The only wave of a row of three is turned by a quarter, i, and the mean dropped.
    x = jnp.array([[[4.0], [1.0], [1.0]]])
    response = jnp.array([[[0.0, 0.0]], [[0.0, 1.0]]])
    got = _gate(x, response, method=method)
    root = 3**0.5  # 3 (2 / 3) cos(turn + a quarter), of the turns 0, 1/3 and 2/3
    _close(got[0, :, 0], [0, -root, root], 1e-6)

  @parameterized.parameters(("fft", 3, 4), ("dft", 3, 4), ("fft", 4, 3), ("dft", 4, 3))
  def test_is_a_circular_convolution(self, method, rows, columns):
    x, parts = _draw(2, rows, columns, 2), _draw(rows, columns // 2 + 1, 2, 2, seed=1)
    response = np.asarray(parts[..., 0] + 1j * parts[..., 1])
    kernel = np.fft.irfft2(response, s=(rows, columns), axes=(0, 1))
    want = np.zeros(x.shape)
    for i in range(rows):
      for j in range(columns):
        want += kernel[i, j] * np.roll(x, (i, j), (1, 2))
    got = _gate(x, jnp.asarray(response), method=method)
    _close(got, want)
    _close(_gate(x, parts, method=method), want)

  @parameterized.parameters("fft", "dft")
  def test_ones_leave_x_and_shifts_go_through(self, method):
    x, response = _draw(1, 5, 6, 2), _draw(5, 4, 2, 2, seed=1)
    ones = jnp.ones((5, 4, 2), jnp.complex64)
    _close(_gate(x, ones, method=method), x)
    moved = jnp.roll(x, (2, 3), (1, 2))
    found, wanted = (np.asarray(_gate(y, response, method=method)) for y in (moved, x))
    _close(found, np.roll(wanted, (2, 3), (1, 2)))

  @parameterized.parameters("fft", "dft")
  def test_which_imaginary_parts_say_nothing(self, method):
    x, response = _draw(1, 4, 6, 1), jnp.asarray(_draw(4, 4, 1, 2, seed=1))

    @jax.jit
    def slope(response):
      def total(response):
        return jnp.sum(_gate(x, response, method=method) * weight)

      return jax.grad(total)(response)

    weight = _draw(1, 4, 6, 1, seed=2)
    found = np.abs(np.asarray(slope(response))[:, :, 0, 1])
    silent = np.zeros((4, 4), bool)
    silent[::2, ::3] = True  # frequencies 0 and 2 of 4 rows, 0 and 3 of 6 columns
    self.assertLess(found[silent].max(), 1e-5)
    self.assertGreater(found[~silent].min(), 1e-3)

  def test_matrices_compute_in_float32(self):
    x, response = _draw(1, 9, 8, 2), _draw(9, 5, 2, 2, seed=1)
    rough = jnp.asarray(x, jnp.bfloat16)
    got = _gate(rough, response, method="dft")
    self.assertEqual(got.dtype, jnp.bfloat16)
    want = _gate(rough.astype(np.float32), response)
    # Half a step of 8 bits of the result, and no more.
    error = np.abs(np.asarray(got, np.float32) - want) / np.abs(want)
    self.assertLessEqual(error.max(), 2.0**-8 * 1.01)

  @parameterized.parameters(
    ("tpu", (64, 64), False),
    ("tpu", (65, 4), True),
    ("tpu", (4, 65), True),
    ("cpu", (8, 8), True),
    ("gpu", (8, 8), True),
  )
  def test_auto_takes_matrices_of_short_sides_on_tpus(self, device, grid, fast):
    x = jax.ShapeDtypeStruct((1, *grid, 1), jnp.float32)
    half = jax.ShapeDtypeStruct((grid[0], grid[1] // 2 + 1, 1, 2), jnp.float32)
    with mock.patch.object(platform, "target_platform", lambda: device):
      found = str(jax.make_jaxpr(spectformer.spectral_gate)(x, half))
    self.assertEqual("fft" in found, fast)
    self.assertEqual("dot_general" in found, not fast)

  def test_nothing_gives_nothing(self):
    for shape in ((0, 4, 6, 2), (2, 4, 6, 0)):
      x = jnp.zeros(shape)
      got = spectformer.spectral_gate(x, jnp.ones((4, 4, shape[-1], 2)))
      self.assertEqual(got.shape, shape)

  def test_errors_name_the_shape_and_the_option(self):
    x, response = jnp.ones((1, 4, 6, 2)), jnp.ones((4, 4, 2, 2))
    gate = spectformer.spectral_gate
    with self.assertRaisesRegex(ValueError, r"float32 \(4, 6, 2, 2\).*\(4, 4, 2, 2\)"):
      gate(x, jnp.ones((4, 6, 2, 2)))
    with self.assertRaisesRegex(ValueError, r"complex64 .*\(4, 4, 2\)$"):
      gate(x, response.astype(jnp.complex64))
    for wrong in (jnp.ones((4, 2)), jnp.ones((1, 2, 4, 6, 2))):
      with self.assertRaisesRegex(ValueError, r"x is \(B, T, C\)"):
        gate(wrong, response)
    with self.assertRaisesRegex(ValueError, "unknown method 'wavelet'.*fft"):
      gate(x, response, method="wavelet")


class LayerTest(parameterized.TestCase):
  def test_weights_are_the_kernel_at_differences(self):
    layer = _noisy(
      lambda: spectformer.Layer(2, form="image", grid=(3, 4), rngs=nnx.Rngs(0))
    )
    x = _draw(2, 3, 4, 2)
    weights = jax.jit(lambda layer, x: contract.weights(layer, x))(layer, x)
    self.assertEqual(weights.shape, (2, 2, 12, 12))
    parts = np.asarray(layer.response)
    kernel = np.fft.irfft2(parts[..., 0] + 1j * parts[..., 1], s=(3, 4), axes=(0, 1))
    for t, s in ((0, 0), (0, 7), (5, 2), (11, 6)):
      row, column = t // 4 - s // 4, t % 4 - s % 4
      _close(weights[:, :, t, s], [kernel[row % 3, column % 4]] * 2)
    want = np.einsum("bcts,bsc->btc", weights, x.reshape(2, 12, 2))
    _close(_layer_run(layer, x).reshape(2, 12, 2), want)

  @parameterized.parameters(("sequence", 6), ("image", (3, 6)))
  def test_the_grid_of_the_response_needs_no_interpolation(self, form, grid):
    layer = spectformer.Layer(2, form=form, grid=grid, rngs=nnx.Rngs(0))
    sides = (grid,) if isinstance(grid, int) else grid
    self.assertEqual(layer.response.shape, (*sides[:-1], 4, 2, 2))
    same = spectformer.resampled(layer.response[...], sides)
    np.testing.assert_array_equal(same, layer.response[...])
    # 7 columns have as many frequencies.
    longer = spectformer.resampled(layer.response[...], (*sides[:-1], 7))
    np.testing.assert_array_equal(longer, layer.response[...])

  def test_frequencies_between_others_by_hand(self):
    # Of 4 frequencies to 7, each second one is new: half way, with the weights -3/32
    # and 19/32, where the ends stand for what is beyond them.
    parts = jnp.array([[1.0, 0.0], [2.0, 8.0], [4.0, 0.0], [8.0, 16.0]])[:, None]
    got = spectformer.resampled(parts, (12,))[:, 0]
    _close(got[::2], parts[:, 0])
    want = [
      [(-3 + 19 + 38 - 12) / 32, (152 - 0) / 32],
      [(-3 + 38 + 76 - 24) / 32, (152 - 48) / 32],
      [(-6 + 76 + 152 - 24) / 32, (-24 + 304 - 48) / 32],
    ]
    _close(got[1::2], want)

  def test_both_axes_are_interpolated(self):
    draw = _draw(4, 3, 1, 2)
    got = spectformer.resampled(jnp.asarray(draw), (7, 8))
    self.assertEqual(got.shape, (7, 5, 1, 2))
    _close(got[::2, ::2], draw)
    near, far = 19 / 32, -3 / 32
    middle = far * draw[0, 2] + near * (draw[1, 2] + draw[2, 2]) + far * draw[3, 2]
    _close(got[3, 4], middle)

  def test_a_row_of_another_length_is_filtered_by_the_interpolation(self):
    layer = _noisy(
      lambda: spectformer.Layer(2, form="sequence", grid=8, rngs=nnx.Rngs(0))
    )
    x = _draw(1, 5, 2)
    parts = np.asarray(spectformer.resampled(jnp.asarray(layer.response[...]), (5,)))
    response = parts[..., 0] + 1j * parts[..., 1]
    want = np.fft.irfft(np.fft.rfft(x, axis=1) * response, n=5, axis=1)
    _close(_layer_run(layer, x), want)

  def test_draws_a_fiftieth_of_a_unit_normal(self):
    layer = spectformer.Layer(64, form="image", rngs=nnx.Rngs(0))
    self.assertEqual(layer.response.shape, (14, 8, 64, 2))
    drawn = np.asarray(layer.response[...])
    self.assertBetween(drawn.std(), 0.0195, 0.0205)
    self.assertLess(abs(drawn.mean()), 1e-3)

  def test_errors_name_the_option(self):
    for options, message in (
      ({"form": "causal"}, "unknown form 'causal'"),
      ({"method": "dct"}, "unknown method 'dct'"),
      ({"grid": (3, 4, 5)}, r"grid = \(3, 4, 5\): form 'image' has 2"),
      ({"grid": 0}, "grid = 0: form 'image' has 2 positive sides"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        given: dict[str, Any] = {"form": "image"} | options
        spectformer.Layer(4, **given, rngs=nnx.Rngs(0))


_layer_run = jax.jit(lambda layer, x: layer(x))


class BlockTest(parameterized.TestCase):
  @parameterized.parameters("vanilla", "hierarchical")
  def test_residuals(self, style):
    block, x = _block(style), _draw(2, 3, 2, 4)

    @jax.jit
    def parts(block, x):
      y = block.filter(block.norm(x))
      if style == "hierarchical":
        x = y = x + y
      hidden = block.feed.up(block.feed_norm(y))
      if style == "hierarchical":
        hidden = block.feed.convolution(hidden)
      return x + block.feed.down(jax.nn.gelu(hidden, approximate=False))

    _close(_run(block, x), parts(block, x))
    self.assertEqual(block.feed.convolution is None, style == "vanilla")

  @parameterized.parameters(("vanilla", 1, 0.5), ("hierarchical", 2, 0.25))
  def test_a_path_is_dropped_for_each_residual(self, style, kept, share):
    block = _block(style, drop=0.5)
    x = jnp.broadcast_to(_draw(1, 3, 2, 4), (2048, 3, 2, 4))
    got = np.asarray(_run(block, x, jax.random.key(0)))
    left = (got == np.asarray(x)).all(axis=(1, 2, 3))
    self.assertBetween(left.mean(), share - 0.04, share + 0.04)
    self.assertLen(np.unique(got[:, 0, 0, 0].round(4)), 2**kept)

  def test_errors_name_the_option(self):
    with self.assertRaisesRegex(ValueError, "unknown style 'flat'"):
      _block("flat")
    with self.assertRaisesRegex(ValueError, "drop = 1.0"):
      _block("vanilla", drop=1.0)


if __name__ == "__main__":
  absltest.main()
