"""S2: what the paper and its code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn.class_token import Marked
from attnjax.variants.tokens import scaling_on_scales as s2


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _image(*shape):
  draw = np.random.default_rng(0).standard_normal
  return jnp.asarray(draw(shape), jnp.float32)


def _patches(x):
  """Means of patches of 2 x 2: linear, each place by itself."""
  B, H, W, C = x.shape
  return x.reshape(B, H // 2, 2, W // 2, 2, C).mean(axis=(2, 4))


def _flat(x):
  return x.reshape(len(x), -1, x.shape[-1])


class ResizeTest(parameterized.TestCase):
  # k(t) of a = -0.75 at t = 1/4, 3/4, 5/4, 7/4: with a = -1/2 they are 0.867, 0.227,
  # -0.070 and -0.023.
  K = (0.87890625, 0.26171875, -0.10546875, -0.03515625)

  def test_a_pixel_is_spread_by_the_kernel(self):
    x = jnp.zeros((1, 7, 1, 1)).at[0, 3].set(1)
    got = s2.bicubic(x, (14, 1))[0, :, 0, 0]
    a, b, c, d = self.K
    _close(got, [0, 0, 0, d, c, b, a, a, b, c, d, 0, 0, 0], 1e-6)

  def test_edges_are_repeated(self):
    x = jnp.zeros((1, 1, 7, 1)).at[0, 0, 0].set(1)
    got = s2.bicubic(x, (1, 14))[0, 0, :5, 0]
    a, b, c, d = self.K
    # Pixels -1 and -2 are pixel 0 again. Output 0 is at -1/4, output 1 at 1/4.
    _close(got, [a + b + d, a + c, b + d, c, d], 1e-6)

  def test_smaller_images_are_not_smoothed(self):
    x = jnp.asarray([0.0, 0, 0, 0, 1, 0, 0, 0]).reshape(1, 8, 1, 1)
    got = s2.bicubic(x, (4, 1))[0, :, 0, 0]
    # Half way between pixels: k(1/2) = 19/32 and k(3/2) = -3/32.
    _close(got, [0, -3 / 32, 19 / 32, 0], 1e-6)
    got = s2.bicubic(x, (2, 1))[0, :, 0, 0]  # at 1.5 and 5.5
    _close(got, [0, -3 / 32], 1e-6)

  def test_area_averages_whole_cells(self):
    x = jnp.arange(6.0).reshape(1, 6, 1, 1)
    _close(s2.area(x, (3, 1))[0, :, 0, 0], [0.5, 2.5, 4.5])
    _close(s2.area(x, (4, 1))[0, :, 0, 0], [0.5, 1.5, 3.5, 4.5])
    _close(s2.area(x[:, :2], (4, 1))[0, :, 0, 0], [0, 0, 1, 1])


class ForwardTest(parameterized.TestCase):
  def test_one_scale_is_the_network(self):
    x = _image(2, 4, 6, 3)
    got = s2.multiscale_forward(x, f=_patches, scales=(1,))
    np.testing.assert_array_equal(got, _patches(x))

  def test_stitching_undoes_cutting(self):
    x = _image(2, 6, 4, 3)
    tiles = s2.split_tiles(x, (3, 2))
    np.testing.assert_array_equal(tiles[1, 3], x[1, 2:4, 2:])  # row 1, column 1
    np.testing.assert_array_equal(s2.merge_tiles(tiles, (3, 2)), x)

  def test_of_a_linear_network_it_is_pooling(self):
    x = _image(1, 8, 8, 2)
    got = s2.multiscale_forward(x, f=_patches, scales=(1, 2))
    self.assertEqual(got.shape, (1, 4, 4, 4))
    large = _patches(s2.bicubic(x, (16, 16)))
    _close(got[..., 2:], large.reshape(1, 4, 2, 4, 2, 2).mean(axis=(2, 4)))
    _close(got[..., :2], _patches(x))

  def test_of_a_constant_image_all_scales_are_equal(self):
    x = jnp.full((1, 4, 4, 1), 0.7)
    got = s2.multiscale_forward(x, f=_patches, scales=(1, 2, 3))
    _close(got, jnp.full((1, 2, 2, 3), 0.7))

  def test_a_tile_sees_no_other(self):
    def mean(x):
      return jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), (len(x), 1, 1, 1))

    x = _image(2, 8, 8, 1)
    got = s2.multiscale_forward(x, f=mean, scales=(0.5, 1), max_split=4, resize_to=1)
    _close(got[..., 1], x.reshape(2, 2, 4, 2, 4).mean(axis=(2, 4)))
    # The half image is one tile, whose cell repeats.
    small = s2.bicubic(x, (4, 4)).mean(axis=(1, 2, 3))
    _close(got[..., 0], jnp.broadcast_to(small[:, None, None], (2, 2, 2)))

  def test_prefixes_are_averaged_over_tiles(self):
    def tokens(x):
      first = x.max(axis=(1, 2))[:, None]
      return jnp.concatenate([first, x.reshape(len(x), -1, x.shape[-1])], axis=1)

    x = _image(2, 4, 4, 1)
    got = s2.multiscale_forward(x, f=tokens, scales=(1, 2), prefix=1)
    self.assertEqual(got.shape, (2, 1 + 16, 2))
    large = s2.bicubic(x, (8, 8)).reshape(2, 2, 4, 2, 4)
    _close(got[:, 0], jnp.stack([x.max((1, 2, 3)), large.max((2, 4)).mean((1, 2))], -1))
    _close(got[:, 1:, 0], x.reshape(2, 16))

  @parameterized.parameters("map", "pair")
  def test_one_by_one_is_all_at_once(self, kind):
    def network(x):
      y = jnp.sin(x.cumsum(axis=1))
      return y if kind == "map" else (y.max(axis=(1, 2))[:, None], y)

    x = _image(2, 3, 4, 2)
    options = {"f": network, "scales": (1, 2)}
    once = s2.multiscale_forward(x, **options)
    each = s2.multiscale_forward(x, split_forward=True, **options)
    jax.tree.map(np.testing.assert_array_equal, each, once)

  def test_f_takes_the_type_of_the_images(self):
    x, seen = _image(1, 4, 4, 1).astype(jnp.bfloat16), []

    def network(x):
      seen.append(x.dtype)
      return x

    got = s2.multiscale_forward(x, f=network, scales=(1, 2))
    self.assertEqual([*seen, got.dtype], [jnp.bfloat16] * 3)

  @parameterized.parameters(
    ({"scales": (1.5,)}, r"7 x 7 pixels do not divide by \[2, 2\] tiles"),
    ({"sizes": (7,)}, r"7 x 7 pixels do not divide by \[2, 2\] tiles"),
    ({"scales": ()}, "one scale at least"),
    ({"scales": (0.1,)}, "no empty images"),
    ({"resize_to": 2}, "resize_to = 2: there are 2 scales"),
    ({"max_split": -1}, "max_split = -1"),
    ({"prefix": 1}, "prefix = 1: f gives maps"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      s2.multiscale_forward(_image(1, 5, 5, 1), f=lambda x: x, **options)

  def test_errors_name_the_shape(self):
    with self.assertRaisesRegex(ValueError, "5 x 6 take scales"):
      s2.multiscale_forward(_image(1, 5, 6, 1), f=_patches, sizes=(5,))
    with self.assertRaisesRegex(ValueError, "25 tokens, prefix = 2"):
      s2.multiscale_forward(_image(1, 5, 5, 1), f=_flat, prefix=2)

  def test_sizes_are_rounded_down(self):
    got = s2.multiscale_forward(_image(1, 5, 5, 1), f=lambda x: x, scales=(0.79,))
    self.assertEqual(got.shape, (1, 3, 3, 1))


class ReconstructionTest(absltest.TestCase):
  def test_a_linear_map_is_found(self):
    draw = np.random.default_rng(0).standard_normal
    x = draw((50, 4)).astype(np.float32) + 3
    kernel, bias = draw((4, 2)).astype(np.float32), np.float32([5, -1])
    found = s2.linear_reconstruction(jnp.asarray(x), jnp.asarray(x @ kernel + bias))
    _close(found[0], kernel, 1e-3)
    _close(found[1], bias, 1e-3)

  def test_ridge_shrinks_by_the_mean_square(self):
    # One feature of mean square 1 about its mean: the kernel is 2 / (1 + ridge).
    x = jnp.asarray([[0.0], [2.0]])
    kernel, bias = s2.linear_reconstruction(x, 2 * x, ridge=0.25)
    _close(kernel, [[1.6]])
    _close(bias, [2 - 1.6])

  def test_information_by_hand(self):
    x, y = jnp.asarray([[0.0], [1.0]]), jnp.asarray([[1.0], [5.0]])
    given = jnp.asarray([[3.0]]), jnp.asarray([2.0]), jnp.asarray([3.0])
    # Errors 1 and 0; those of the constant 2 and -2.
    _close(s2.information(x, y, *given), np.log(4 / 0.5))

  def test_errors_name_the_option(self):
    x = jnp.ones((3, 2))
    with self.assertRaisesRegex(ValueError, "N differs"):
      s2.linear_reconstruction(x, x[:2])
    with self.assertRaisesRegex(ValueError, "ridge = -1"):
      s2.linear_reconstruction(x, x, ridge=-1.0)
    for call in (
      lambda: s2.linear_reconstruction(x, x, impl="cuda"),
      lambda: s2.information(x, x, x[:2], x[0], x[0], impl="cuda"),
    ):
      with self.assertRaisesRegex(ValueError, "unknown impl 'cuda'"):
        call()


def _model(**options) -> Any:
  given: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 2, "patch": 2, "grid": (2, 2)}
  return s2.Model(1, 3, **given | options, rngs=nnx.Rngs(0))


class ModelTest(absltest.TestCase):
  def test_class_tokens_and_maps_of_all_tiles(self):
    model, x = _model(), _image(2, 4, 4, 1)
    inner = model.stages.inner

    @jax.jit
    def both(model, x):
      whole, large = (
        model.stages.inner(model.stages.stem(y))[0].rows
        for y in (x, s2.split_tiles(s2.bicubic(x, (8, 8)), (2, 2)).reshape(8, 4, 4, 1))
      )
      large = large.reshape(2, 4, 5, 8)
      first = jnp.concatenate([whole[:, 0], large[:, :, 0].mean(axis=1)], axis=-1)
      cells = jnp.concatenate(
        [whole[:, 1:], large[:, :, 1:].mean(axis=2)], axis=-1
      )  # each tile is one cell
      return model(x), model.stages(x)[0], model.head(first), cells

    logits, marked, want, cells = both(model, x)
    self.assertIsInstance(marked, Marked)
    self.assertEqual(marked.grid, (2, 2))
    _close(logits, want)
    _close(marked.rows[:, 1:], cells)
    self.assertLen(inner.stages, 1)

  def test_weights_are_of_all_tiles(self):
    model, x = _model(), _image(2, 4, 4, 1)
    one, two = jax.jit(lambda model, x: model.weights(x))(model, x)
    self.assertEqual((one.shape, two.shape), ((2, 2, 5, 5), (2, 8, 5, 5)))
    _close(two.sum(-1), np.ones((2, 8, 5)))
    tile = s2.bicubic(x, (8, 8))[1:, 4:, :4]  # the third of four tiles
    single = _model(scales=(1.0,))
    _close(two[1, 4:6], jax.jit(lambda m, x: m.weights(x)[0])(single, tile)[0])

  def test_the_published_size(self):
    model: Any = jax.eval_shape(lambda: s2.Model(3, 1000, rngs=nnx.Rngs(0)))
    body = model.stages
    blocks = body.inner.stages[0].sequence
    self.assertEqual(body.options["scales"], (1.0, 2.0))
    self.assertLen(blocks, 1 + 12)
    self.assertEqual(blocks[1].part.mixer.heads, 12)
    self.assertEqual(blocks[1].part.feed.up.kernel.shape, (768, 3072))
    self.assertEqual(blocks[1].part.norm.epsilon, 1e-6)
    self.assertEqual(body.stem.size, 16)
    self.assertEqual(model.head.kernel.shape, (2 * 768, 1000))

  def test_at_one_scale_it_is_the_published_transformer(self):
    options = s2.SIZES["single"]
    model = jax.eval_shape(lambda: s2.Model(3, 1000, **options, rngs=nnx.Rngs(0)))
    self.assertEqual(sum(x.size for x in jax.tree.leaves(model)), 86_567_656)

  def test_options_reach_the_function(self):
    given = {"scales": (0.5, 1.0), "max_split": 2, "resize_to": 1}
    model = jax.eval_shape(lambda: _model(**given, split_forward=True))
    self.assertEqual(model.stages.options, given | {"split_forward": True})

  def test_a_trace_is_refused(self):
    with self.assertRaisesRegex(NotImplementedError, "run on tiles"):
      jax.eval_shape(_model).trace(_image(1, 4, 4, 1))


if __name__ == "__main__":
  absltest.main()
