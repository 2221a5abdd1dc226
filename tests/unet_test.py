"""The U-shaped host: every mechanism on images, any size, its inside, its norms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

import attnjax
from attnjax import contract
from attnjax.contract import networks
from attnjax.models import unet
from attnjax.nn import running
from attnjax.nn.norms import BatchNorm
from attnjax.nn.patches import Patches
from attnjax.nn.unpatch import Unpatch

IMAGES = jax.random.normal(jax.random.key(0), (2, 9, 14, 3))
_call = jax.jit(lambda model, *x, **c: model(*x, **c))


class _Mixer(nnx.Module):
  """A layer with batch norm: every point takes the mean of the map."""

  def __init__(self, dim, *, layers=1, rngs):
    self.linear, self.norm = nnx.Linear(dim, dim, rngs=rngs), BatchNorm(dim)

  def __call__(self, x, *, index=0, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    y = jnp.sin(carry(self.norm, self.linear(x)))
    return carry.result(y + y.mean((1, 2), keepdims=True))


class _Mixers:
  form = "image"

  def __call__(self, dim, *, layers, rngs):
    return _Mixer(dim, rngs=rngs)


def _of(slug, **options):
  return contract.constructor(slug, options, unet.FORMS)


def _make(build, **changes):
  """A small host; its weights are drawn, and quickly."""
  sizes = {"channels": 3, "outputs": 2, "dims": (8, 16), "depths": (1, 1), "width": 4}
  options: dict[str, Any] = sizes | changes
  make = functools.partial(unet.Model, [build], **options)
  return networks.drawn(jax.eval_shape(lambda: make(rngs=nnx.Rngs(0))))


@functools.cache
def _model():
  return _make(_of("dot_product", heads=2))


class UNetTest(parameterized.TestCase):
  @parameterized.parameters(*attnjax.systems(form="image"))
  def test_takes_every_mechanism_on_images(self, slug):
    def run(model, images):
      given = {"stats": running.init_stats(model), "train": True}
      return running.apply(model, images, key=jax.random.key(0), **given)[0]

    model = _make(_of(slug), dims=(32,), depths=(1,))
    maps = jax.eval_shape(run, model, jax.ShapeDtypeStruct((2, 13, 22, 3), jnp.float32))
    self.assertEqual((maps.shape, maps.dtype), ((2, 13, 22, 2), jnp.float32))

  @parameterized.parameters(
    ((2, 1, 1), 2), ((2, 7, 65), 2), ((0, 4, 9), 1), ((1, 5, 6), 3)
  )
  def test_any_size_of_image(self, shape, patch):
    model = _make(_Mixers(), patch=patch, dims=(8, 8, 8), depths=(1, 1, 1))
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    images = jax.ShapeDtypeStruct((*shape, 3), jnp.bfloat16)
    maps = jax.eval_shape(lambda m, x: m(x, stats=m.init_stats())[0], model, images)
    self.assertEqual((maps.shape, maps.dtype), ((*shape, 2), jnp.float32))

  def test_is_its_parts_one_after_the_other(self):
    model = _model()

    @jax.jit
    def run(model, images):
      fine, coarse = model.encoder(images)
      (level,) = model.decoder
      x = jax.lax.conv_general_dilated(  # the transposed convolution
        coarse,
        jnp.flip(level.rise.project.kernel[...].reshape(16, 2, 2, 8), (1, 2)),
        (1, 1),
        ((1, 1), (1, 1)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "IHWO", "NHWC"),
      )
      x += jnp.tile(level.rise.project.bias[...].reshape(2, 2, 8), (3, 4, 1))
      x = level.join(jnp.concatenate([x[:, :5, :7], fine], axis=-1))
      x = level.norm(level.stack(x))
      y = model.pixels.rise.project(x).reshape(2, 5, 7, 2, 2, 4)
      y = jnp.stack(  # row by row
        [y[:, i // 2, :, i % 2].reshape(2, 14, 4) for i in range(9)], axis=1
      )
      y = model.pixels.first_conv(jnp.concatenate([y, images], axis=-1))
      return model.pixels.second_conv(jax.nn.gelu(y))

    _close(_call(model, IMAGES), run(model, IMAGES))

  def test_patches_of_pixels_are_cropped(self):
    layer = Unpatch(4, 3, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 2, 3, 4))
    y = layer(x, (5, 7))
    self.assertEqual(y.shape, (1, 5, 7, 3))
    point = layer.project(x[0, 1, 2]).reshape(3, 3, 3)
    _close(y[0, 3:, 6:], point[:2, :1])

  def test_a_residual_is_the_image(self):
    options: dict[str, Any] = {"outputs": 3, "dims": (8,), "depths": (1,)}
    plain, added = (_make(_Mixers(), **options, residual=x) for x in (False, True))

    @jax.jit
    def both(images):
      return added(images, stats=added.init_stats())[0], plain(
        images, stats=plain.init_stats()
      )[0] + images

    _close(*both(IMAGES))
    with self.assertRaisesRegex(ValueError, "maps of 2 outputs; the image has 3"):
      _make(_Mixers(), residual=True)

  def test_a_residual_begins_as_the_identity(self):
    options: dict[str, Any] = {"dims": (8,), "depths": (1,), "residual": True}
    options |= {"channels": 1, "outputs": 1}

    @jax.jit
    def run(images):
      model = unet.Model([_Mixers()], **options, rngs=nnx.Rngs(0))
      return model(images, stats=model.init_stats())[0]

    _close(run(IMAGES[..., :1]), IMAGES[..., :1])

  def test_the_coarse_stage_sees_the_whole_image(self):
    model, far = _model(), IMAGES.at[:, -1, -1].add(3.0)
    moved = jnp.abs(_call(model, far) - _call(model, IMAGES))
    self.assertGreater(moved[:, 0, 0].max(), 1e-5)

  def test_a_trace_is_the_call_taken_apart(self):
    model = _model()
    trace, weights = jax.jit(lambda m, x: (m.trace(x), m.weights(x)))(model, IMAGES)
    _close(trace.output, _call(model, IMAGES))
    stacks = [*model.encoder.stages, *(level.stack for level in model.decoder)]
    blocks = [block for stack in stacks for _, _, block, _ in stack.each()]
    self.assertLen(blocks, 3)
    self.assertLen(trace.hidden, len(blocks) + len(stacks))
    places = [35, 12, 35]
    for block, heads, found, T in zip(
      blocks, trace.heads, weights, places, strict=True
    ):
      self.assertEqual(found.shape, (2, 2, T, T))
      _close(contract.shares(block.mixer, heads), found)
    seen = []

    def edit(index, heads):
      seen.append(index)
      return heads

    jax.eval_shape(lambda m: m.trace(IMAGES, edit=edit), model)
    self.assertEqual(seen, [0, 1, 2])

  def test_every_norm_is_measured_and_every_parameter_has_a_gradient(self):
    model = _make(_Mixers())

    def loss(model):
      maps, stats = model(IMAGES, stats=model.init_stats(), train=True)
      return jnp.sum(jnp.sin(maps)), stats

    slopes, stats = jax.jit(jax.grad(loss, has_aux=True))(model)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
      self.assertTrue((slope != 0).any(), jax.tree_util.keystr(path))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, model.init_stats())
    self.assertLen(jax.tree.leaves(moved), 2 * 3)
    self.assertTrue(all(jax.tree.leaves(moved)))
    with self.assertRaisesRegex(ValueError, "has batch norm"):
      model(IMAGES)

  def test_dropout_depends_on_the_key(self):
    model = _make(_Mixers(), dropout=0.5)

    @jax.jit
    @jax.vmap
    def run(key):
      return model(IMAGES, key=key, stats=model.init_stats())[0]

    first, other, again = run(jax.vmap(jax.random.key)(jnp.array([0, 1, 0])))
    self.assertGreater(jnp.abs(first - other).max(), 1e-4)
    _close(again, first)

  def test_stages_must_agree(self):
    with self.assertRaisesRegex(ValueError, r"dims = \(8, 16\), depths = \(1,\): one"):
      _make(_Mixers(), depths=(1,))

  def test_unpatching_undoes_patching(self):
    patches, back = (
      Patches(3, 12, 2, rngs=nnx.Rngs(0)),
      Unpatch(12, 3, 2, rngs=nnx.Rngs(1)),
    )
    for layer in (patches, back):
      layer.project.kernel[...] = jnp.eye(12)
    _close(back(patches(IMAGES), (9, 14)), IMAGES)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
