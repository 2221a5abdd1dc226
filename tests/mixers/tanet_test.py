"""TANet: gates by hand, the block and the network in NumPy, what the code promises."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.contract import networks
from attnjax.contract.subject import Subject
from attnjax.core import platform
from attnjax.variants.mixers import tanet


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _noisy(build, seed=0, size=0.3) -> Any:
  """Returns a module with drawn parameters, of which none is 0 or 1."""
  draw = np.random.default_rng(seed).standard_normal

  def drawn(path, leaf):
    one = "scale" in jax.tree_util.keystr(path)
    return np.asarray(size * draw(leaf.shape) + one, np.float32)

  return jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(build))


def _image(*shape, seed=1):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


_called = jax.jit(lambda module, x: module(x))
_strip_gate = jax.jit(tanet.strip_gate)
_pixel_gate = jax.jit(tanet.pixel_gate, static_argnames="lpa_multiply")
_distribution_block = jax.jit(tanet.distribution_block)
_reconstruction = jax.jit(tanet.reconstruction, static_argnames=("weight", "epsilon"))


def _run(module, x):
  """Returns a module's result once it is there: tests change parameters in place."""
  return np.asarray(_called(module, x))


# The definitions once more, in NumPy and float64, from the official layers.


def _bent(x):
  return np.maximum(x, 0) + 0.2 * np.minimum(x, 0)


def _logistic(x):
  return 1 / (1 + np.exp(-x))


def _conv(part, x, stride=1, pad=None):
  """Returns what an nnx.Conv or a linear map of channels computes."""
  kernel = np.asarray(part.kernel, np.float64)
  kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)
  k, _, _, outputs = kernel.shape
  pad = k // 2 if pad is None else pad
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows, columns = ((n - k) // stride + 1 for n in x.shape[1:3])
  y = np.zeros((len(x), rows, columns, outputs))
  for i in range(rows):
    for j in range(columns):
      window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
      y[:, i, j] = np.einsum("bijc,ijcd->bd", window, kernel)
  return y if part.bias is None else y + np.asarray(part.bias)


def _strip(part, means):
  """Returns the convolution of (B, L, C) along L by a kernel of three."""
  kernel = np.asarray(part.kernel).reshape(3, *part.kernel.shape[2:])
  padded = np.pad(means, ((0, 0), (1, 1), (0, 0)))
  return np.asarray(part.bias) + sum(
    padded[:, i : i + means.shape[1]] @ kernel[i] for i in range(3)
  )


def _strips(gate, x):
  both = (
    _strip(gate.rows, x.mean(2))[:, :, None] + _strip(gate.columns, x.mean(1))[:, None]
  )
  return x * _logistic(_conv(gate.outer, np.maximum(_conv(gate.inner, both), 0)))


def _pixels(gate, x, multiply):
  pooled = np.stack([x.max(3), x.mean(3)], axis=3)
  opened = np.repeat(_logistic(_conv(gate.convolve, pooled)), x.shape[3], axis=3)
  return x * opened if multiply else opened


def _halves(block, x):
  u = _conv(block.first, x)
  half = x.shape[3] // 2
  for image in range(len(x)):
    for c in range(half):
      one = u[image, ..., c]
      normed = (one - one.mean()) / np.sqrt(one.var() + 1e-5)
      u[image, ..., c] = block.scale[c] * normed + block.bias[c]
  return x + _bent(_conv(block.second, _bent(u)))


def _block(layer, x, multiply=False):
  t = _bent(_conv(layer.turn, _bent(_conv(layer.enter, x))))
  one, two, three = (
    _bent(_conv(part, t)) for part in (layer.to_strips, layer.to_pixels, layer.to_plain)
  )
  joined = [_strips(layer.strips, one), _pixels(layer.pixels, two, multiply), three]
  f = _bent(_conv(layer.fuse, np.concatenate(joined, axis=3)))
  f = _bent(_conv(layer.smooth, f)) + x
  return _halves(layer.distribution, f) + f + _conv(layer.skip, x)


def _each(repeated):
  """Returns the blocks, whose parameters are stacked."""
  (blocks,) = repeated.blocks
  return [
    jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(repeated.depth)
  ]


def _residuals(repeated, x):
  for part in _each(repeated):
    x = _bent(_conv(part.second, _bent(_conv(part.first, x))) + x)
  return x


def _enlarged(part, x):
  B, h, w, _ = x.shape
  y = np.zeros((B, 2 * h, 2 * w, part.bias.shape[0]))
  for i in range(2):
    for j in range(2):
      y[:, i::2, j::2] = x @ np.asarray(part.kernel, np.float64)[:, i, j]
  return y + np.asarray(part.bias)


def _network(model, images):
  """Returns what the network gives for images in [-0.5, 0.5], sides multiples of 4."""
  x, skipped = _bent(_conv(model.stem, images)), []
  for level in model.down:
    skipped.append(_residuals(level.residuals, x))
    x = _conv(level.reduce, skipped[-1], stride=2, pad=1)
  for layer in _each(model.middle):
    x = _block(layer, x)
  for level in model.up:
    x = np.concatenate([_enlarged(level.enlarge, x), skipped.pop()], axis=3)
    x = _residuals(level.residuals, _bent(_conv(level.join, x)))
  return _bent(_conv(model.head, x)) + images


class ConvolutionTest(parameterized.TestCase):
  @parameterized.parameters(((3, 3), 1, None), ((4, 4), 2, (1, 1)), ((1, 5), 1, None))
  def test_derivatives_are_those_of_other_machines(self, sides, stride, padding):
    x, kernel = _image(2, 6, 7, 3), _image(*sides, 3, 2, seed=2)
    towards = _image(2, 6, 7, 3, seed=3), _image(*sides, 3, 2, seed=4)

    def total(x, kernel):
      return jnp.sum(jnp.sin(tanet.convolve(x, kernel, stride, padding)))

    def run(x, kernel, *towards):
      slope = jax.grad(total, (0, 1))
      return jax.jvp(slope, (x, kernel), towards)  # derivatives of derivatives, too

    found = jax.jit(run)(x, kernel, *towards)
    with mock.patch.object(platform, "target_platform", lambda: "tpu"):
      wanted = jax.jit(lambda *given: run(*given))(x, kernel, *towards)
    jax.tree.map(lambda a, b: _close(a, b, 1e-4), found, wanted)


class StripGateTest(absltest.TestCase):
  def test_by_hand(self):
    # Means of rows (2, 5), of columns (1, 3, 6.5). Along rows 2 r[i - 1] + r[i], along
    # columns s[j] - s[j + 1], zeros beyond.
    x = np.array([[1.0, 2, 3], [1, 4, 10]])
    rows, columns = np.array([2.0, 9]), np.array([-2, -3.5, 6.5])
    hidden = np.maximum(0.5 * (rows[:, None] + columns + 0.25 - 0.5) - 1, 0)
    want = x / (1 + np.exp(-(-0.3 * hidden + 0.1)))
    one = np.ones((1, 1), np.float32)
    got = _strip_gate(
      jnp.asarray(x[None, ..., None], jnp.float32),
      jnp.array([2.0, 1, 0])[:, None, None],
      jnp.array([0.25]),
      jnp.array([0.0, 1, -1])[:, None, None],
      jnp.array([-0.5]),
      jnp.asarray(0.5 * one),
      jnp.array([-1.0]),
      jnp.asarray(-0.3 * one),
      jnp.array([0.1]),
    )
    _close(got[0, ..., 0], want, 1e-6)

  def test_a_pixel_reads_its_row_and_column_and_those_beside(self):
    gate: Any = _noisy(lambda: tanet.StripGate(4, rngs=nnx.Rngs(0)))
    gate.inner.bias[...] = 3  # no unit is off
    x = _image(5, 6, 4)
    run = jax.jit(jax.jacrev(lambda x, gate: gate(x[None])[0, 2, 3].sum()))
    slope = run(x, gate)
    seen = np.abs(slope).max(axis=2) > 1e-6
    want = np.zeros((5, 6), bool)
    want[1:4] = True
    want[:, 2:5] = True
    np.testing.assert_array_equal(seen, want)

  def test_a_transposed_image_swaps_rows_and_columns(self):
    gate: Any = _noisy(lambda: tanet.StripGate(4, rngs=nnx.Rngs(0)))
    x = _image(1, 5, 3, 4)
    want = _run(gate, x)
    for name in ("kernel", "bias"):
      rows, columns = (getattr(part, name) for part in (gate.rows, gate.columns))
      old = np.array(rows[...])
      rows[...], columns[...] = columns.reshape(rows.shape), old.reshape(columns.shape)
    _close(_run(gate, x.swapaxes(1, 2)).swapaxes(1, 2), want)

  def test_errors_name_the_shapes(self):
    x, one, shift = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 1)), jnp.ones(1)
    rest = jnp.ones((1, 1)), shift, jnp.ones((1, 3)), jnp.ones(3)
    with self.assertRaisesRegex(ValueError, r"\(2, 3, 1\).*k is odd"):
      tanet.strip_gate(x, one[:2], shift, one, shift, *rest)
    with self.assertRaisesRegex(ValueError, r"\(2, 3, 1\).*k is odd"):
      tanet.strip_gate(x, one, shift, one[:2], shift, *rest)
    with self.assertRaisesRegex(ValueError, r"of x \(1, 2, 2, 2\)"):
      tanet.strip_gate(x[..., :2], one, shift, one, shift, *rest)


class PixelGateTest(absltest.TestCase):
  def test_by_hand(self):
    # Pixels (3, -1) and (0, 4): largest 3 and 4, means 1 and 2.
    x = jnp.array([[[[3.0, -1], [0, 4]]]])
    kernel = jnp.zeros((3, 3, 2)).at[1, 1].set(jnp.array([0.1, -0.2]))
    kernel = kernel.at[1, 2].set(jnp.array([0.3, 0.5])).at[0, 1].set(7.0)
    score = np.array([0.3 - 0.2 + 1.2 + 1.0, 0.4 - 0.4]) + 0.05
    want = np.repeat(_logistic(score)[:, None], 2, axis=1)
    got = _pixel_gate(x, kernel, jnp.asarray(0.05))
    _close(got[0, 0], want, 1e-6)
    got = _pixel_gate(x, kernel, jnp.asarray(0.05), lpa_multiply=True)
    _close(got[0, 0], want * np.asarray(x)[0, 0], 1e-6)

  def test_errors_name_the_shapes(self):
    x = jnp.ones((1, 2, 2, 3))
    for kernel in ((2, 2, 2), (3, 3, 1), (3, 1, 2)):
      with self.assertRaisesRegex(ValueError, r"kernel .* with odd k"):
        tanet.pixel_gate(x, jnp.ones(kernel), jnp.ones(()))
    with self.assertRaisesRegex(ValueError, "lpa_kernel = 4"):
      tanet.PixelGate(4, rngs=nnx.Rngs(0))


class DistributionTest(absltest.TestCase):
  def test_by_hand(self):
    # Two pixels and channels, kernels of 1 x 1. The first channel, doubled, is (2, 6):
    # normed by a deviation of 2. The second is (3, -5), of which -5 gives -1.
    x = jnp.array([[[[1.0, 3], [3, -5]]]])
    eye = jnp.eye(2)[None, None]
    one = 2 / np.sqrt(4 + 1e-5)
    normed = np.array([-3 * one + 0.5, 3 * one + 0.5])
    hidden = np.stack([_bent(normed), [3, -1]], axis=1)
    second = np.array([[0.0, 1], [-1, 0]])  # channels change places
    want = np.asarray(x)[0, 0] + _bent(hidden @ second + [0.25, -0.5])
    got = _distribution_block(
      x,
      eye * jnp.array([2.0, 1]),
      jnp.zeros(2),
      jnp.array([3.0]),
      jnp.array([0.5]),
      jnp.asarray(second[None, None], jnp.float32),
      jnp.array([0.25, -0.5]),
    )
    _close(got[0, 0], want, 1e-5)

  def test_epsilon_is_added_to_the_variance(self):
    x = jnp.array([[[[1e-3, 0], [-1e-3, 0]]]])
    eye, zero = jnp.eye(2)[None, None], jnp.zeros(2)
    got = _distribution_block(x, eye, zero, zero[:1] + 1, zero[:1], eye, zero)
    want = 1e-3 / np.sqrt(1e-6 + 1e-5)
    # The leaky unit is passed twice.
    _close(got[0, 0, :, 0], [1e-3 + want, -1e-3 - 0.04 * want], 1e-6)

  def test_a_gain_of_the_first_half_changes_nothing(self):
    block: Any = _noisy(lambda: tanet.DistributionBlock(4, rngs=nnx.Rngs(0)))
    x = _image(2, 6, 5, 4)
    want = _run(block, x)
    times, more = np.array([3, 5, 1, 1.0]), np.array([2, -1, 0, 0.0])
    block.first.kernel[...] = block.first.kernel[...] * times
    block.first.bias[...] = block.first.bias[...] * times + more
    _close(_run(block, x), want, 1e-3)
    # An image is normalised by itself.
    _close(_run(block, x[1:]), want[1:])

  def test_without_a_second_kernel_it_is_the_identity(self):
    block: Any = _noisy(lambda: tanet.DistributionBlock(3, rngs=nnx.Rngs(0)))
    block.second.kernel[...], block.second.bias[...] = 0, 0
    x = _image(1, 2, 3, 3)
    _close(_run(block, x), x)

  def test_errors_name_the_shapes(self):
    x, kernel, c = jnp.ones((1, 2, 2, 4)), jnp.ones((3, 3, 4, 4)), jnp.ones(4)
    for given in (
      (kernel, c, c, c[:2], kernel, c),
      (kernel[:2], c, c[:2], c[:2], kernel, c),
      (kernel, c, c[:2], c[:2], kernel[:, :2], c),
    ):
      with self.assertRaisesRegex(ValueError, r"of x \(1, 2, 2, 4\).*k is odd"):
        tanet.distribution_block(x, *given)


class ReconstructionTest(parameterized.TestCase):
  def test_by_hand(self):
    # Pixels that differ by 0.3 and -0.1: the coefficients 0.2 and 0.4 are real.
    x, y = jnp.array([0.3, 0.4]), jnp.array([0.0, 0.5])
    near = (np.sqrt(0.09 + 1e-6) + np.sqrt(0.01 + 1e-6)) / 2
    for shape in ((1, 1, 2, 1), (1, 2, 1, 1)):
      got = _reconstruction(x.reshape(shape), y.reshape(shape))
      self.assertAlmostEqual(float(got), near + 0.03 * 0.6 / 4, places=6)
    got = _reconstruction(x[:1].reshape(1, 1, 1, 1), y[:1].reshape(1, 1, 1, 1))
    self.assertAlmostEqual(float(got), np.sqrt(0.09 + 1e-6) + 0.03 * 0.3 / 2, places=6)

  def test_equal_images_differ_by_epsilon(self):
    x = jnp.asarray(_image(2, 3, 5, 1))
    self.assertAlmostEqual(float(_reconstruction(x, x)), 1e-3, places=8)
    self.assertAlmostEqual(float(_reconstruction(x, x, epsilon=0.2)), 0.2, places=6)

  @parameterized.parameters((4, 6), (5, 7), (3, 4))
  def test_is_of_all_coefficients(self, H, W):
    x, y = _image(2, 2, H, W, 3)
    far = x.astype(np.float64) - y
    waves = np.fft.fft2(far, axes=(1, 2))
    each = np.stack([np.abs(waves.real), np.abs(waves.imag)]).mean()
    near = np.sqrt(far**2 + 1e-6).mean()
    got = _reconstruction(jnp.asarray(x), jnp.asarray(y))
    _close(got, near + 0.03 * each, 1e-6)
    got = _reconstruction(jnp.asarray(x), jnp.asarray(y), weight=2.0)
    _close(got, near + 2 * each, 1e-6)

  def test_is_float32_of_16_bits(self):
    x = jnp.ones((1, 2, 3, 1), jnp.bfloat16)
    self.assertEqual(_reconstruction(x, x).dtype, jnp.float32)

  def test_errors_name_the_shapes(self):
    x = jnp.ones((1, 2, 3, 1))
    with self.assertRaisesRegex(ValueError, r"x \(1, 2, 3, 1\), y \(1, 2, 2, 1\)"):
      tanet.reconstruction(x, x[:, :, :2])
    with self.assertRaisesRegex(ValueError, "not empty"):
      tanet.reconstruction(x[:0], x[:0])


class LayerTest(parameterized.TestCase):
  @parameterized.parameters((8, 7, False), (5, 3, True))
  def test_is_the_block_in_numpy(self, dim, kernel, multiply):
    given = {"lpa_kernel": kernel, "lpa_multiply": multiply} if multiply else {}
    layer = _noisy(lambda: tanet.Layer(dim, **given, rngs=nnx.Rngs(0)), size=0.2)
    self.assertEqual(layer.pixels.convolve.kernel.shape, (kernel, kernel, 2, 1))
    x = _image(2, 5, 4, dim)
    want = _block(layer, x.astype(np.float64), multiply)
    _close(_run(layer, x), want, 1e-4)

  def test_there_are_no_weights(self):
    layer: Any = jax.eval_shape(lambda: tanet.Layer(4, rngs=nnx.Rngs(0)))
    with self.assertRaisesRegex(NotImplementedError, "gates have no weights"):
      layer.weights(jnp.ones((1, 2, 2, 4)))

  def test_errors_name_the_option(self):
    for options, message in (
      ({"form": "causal"}, "unknown form 'causal'"),
      ({"impl": "pallas"}, "unknown impl 'pallas'"),
      ({"lpa_kernel": 2}, "lpa_kernel = 2"),
      ({"dim": 3}, "dim = 3"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        given = {"dim": 4} | options
        jax.eval_shape(lambda given=given: tanet.Layer(**given, rngs=nnx.Rngs(0)))


class ModelTest(parameterized.TestCase):
  def test_is_the_network_in_numpy(self):
    model: Any = _noisy(
      lambda: tanet.Model(3, 3, width=2, blocks=2, rngs=nnx.Rngs(0)), size=0.2
    )
    images = np.random.default_rng(1).random((1, 8, 12, 3), np.float32)
    want = _network(model, images.astype(np.float64) - 0.5) + 0.5
    _close(_run(model, images), want, 1e-4)
    # Sides between multiples of 4 are reflected at the right and bottom.
    part = images[:, :7, :9]
    whole = np.pad(part, ((0, 0), (0, 1), (0, 3), (0, 0)), mode="reflect")
    want = _network(model, whole.astype(np.float64) - 0.5)[:, :7, :9] + 0.5
    _close(_run(model, part), want, 1e-4)

  def test_options_of_the_network(self):
    given = {"lpa_kernel": 3, "lpa_multiply": True, "centre": 0.25, "impl": "reference"}
    model: Any = jax.eval_shape(
      lambda: tanet.Model(1, 2, width=1, blocks=1, **given, rngs=nnx.Rngs(0))
    )
    pixels = model.middle.blocks[0].pixels
    self.assertEqual(pixels.convolve.kernel.shape, (1, 3, 3, 2, 1))
    self.assertEqual(pixels.options, {"lpa_multiply": True, "impl": "reference"})
    for name in ("strips", "distribution"):
      self.assertEqual(getattr(model.middle.blocks[0], name).impl, "reference")
    self.assertEqual((model.centre, model.residual), (0.25, False))

  def test_images_are_added_to_as_many_outputs_alone(self):
    x = np.random.default_rng(1).random((1, 5, 3, 2), np.float32)
    model: Any = _noisy(lambda: tanet.Model(2, 3, width=1, blocks=1, rngs=nnx.Rngs(0)))
    # The last unit bends what is negative.
    model.head.kernel[...], model.head.bias[...] = 0, [-1, 0, 1]
    _close(_run(model, x), np.broadcast_to([-0.2, 0, 1], (1, 5, 3, 3)), 1e-6)

  def test_the_published_network(self):
    subject = Subject(contract.load("tanet"), "dense")
    model = networks.abstract(subject, "published", classes=3)
    self.assertEqual(tanet.SIZES["published"], {})
    (blocks,) = model.middle.blocks
    self.assertEqual(blocks.pixels.convolve.kernel.shape, (10, 7, 7, 2, 1))
    self.assertFalse(blocks.pixels.options["lpa_multiply"])

    def conv(k, inputs, outputs):
      return k * inputs * outputs + outputs

    def size(part):
      return sum(leaf.size for leaf in jax.tree.leaves(part))

    gsa = 2 * conv(3, 64, 32) + conv(1, 32, 32) + conv(1, 32, 64)
    gda = 2 * conv(9, 128, 128) + 2 * 64
    block = 2 * conv(9, 128, 128) + 2 * conv(1, 128, 128) + conv(1, 192, 128)
    block += 2 * conv(9, 128, 64) + conv(1, 128, 64) + gsa + conv(49, 2, 1) + gda
    self.assertEqual(size(blocks), 10 * block)
    ends = conv(9, 3, 32) + conv(9, 32, 3)
    down = 6 * conv(9, 32, 32) + 16 * 32 * 64 + 6 * conv(9, 64, 64) + 16 * 64 * 128
    up = conv(4, 128, 64) + conv(1, 128, 64) + 6 * conv(9, 64, 64)
    up += conv(4, 64, 32) + conv(1, 64, 32) + 6 * conv(9, 32, 32)
    self.assertEqual(size(model), ends + down + 10 * block + up)

  def test_starts_as_torch_draws(self):
    rngs = nnx.Rngs(0)
    block = tanet.DistributionBlock(4, rngs=rngs)
    for part, inputs in (
      (block.first, 36),
      (tanet.Convolution(8, 4, (3, 1), rngs=rngs), 24),
      (tanet.Convolution(4, 8, 4, stride=2, bias=False, rngs=rngs), 64),
      (tanet.Enlarge(16, 4, rngs=rngs), 16),  # the transposed one counts its outputs
    ):
      for leaf in jax.tree.leaves(part):
        self.assertLessEqual(np.abs(leaf).max(), inputs**-0.5)
        self.assertGreater(np.abs(leaf).max(), 0.3 * inputs**-0.5)
      self.assertGreater(np.abs(part.kernel[...]).max(), 0.8 * inputs**-0.5)
    np.testing.assert_array_equal(block.scale[...], [1, 1])
    np.testing.assert_array_equal(block.bias[...], [0, 0])

  def test_errors_name_the_option(self):
    for options, message in (
      ({"width": 0}, "width = 0"),
      ({"blocks": 0}, "blocks = 0"),
      ({"remat": "all"}, "unknown remat 'all'"),
      ({"lpa_kernel": 4}, "lpa_kernel = 4"),
    ):
      given: dict[str, Any] = {"width": 1, "blocks": 1} | options
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(lambda o=given: tanet.Model(1, 1, **o, rngs=nnx.Rngs(0)))


if __name__ == "__main__":
  absltest.main()
