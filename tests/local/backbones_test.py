"""The published models: their parameters, any size of images, maps of every stage."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn import running
from attnjax.variants.local import crossformer, duoformer, hilo
from attnjax.variants.local.duoformer import resnet
from attnjax.variants.local.hilo import merging


def _parameters(make) -> float:
  """Millions of parameters of the module that `make` builds, without building it."""
  state = nnx.state(nnx.eval_shape(make), nnx.Param)
  return sum(leaf.size for leaf in jax.tree.leaves(state)) / 1e6


class SizeTest(parameterized.TestCase):
  @parameterized.parameters(("S", 28.0), ("M", 49.0), ("B", 87.0))
  def test_hilo_has_as_many_parameters_as_published(self, name, published):
    size = hilo.SIZES[name]
    found = _parameters(lambda: hilo.Model(3, 1000, size=size, rngs=nnx.Rngs(0)))
    self.assertLess(abs(found - published) / published, 0.01, found)

  @parameterized.parameters(("T", 27.8), ("S", 30.7), ("B", 52.0), ("L", 92.0))
  def test_crossformer_has_as_many_parameters_as_published(self, name, published):
    size = crossformer.SIZES[name]
    found = _parameters(lambda: crossformer.Model(3, 1000, size=size, rngs=nnx.Rngs(0)))
    self.assertLess(abs(found - published) / published, 0.01, found)

  @parameterized.parameters(("resnet18", 11.69), ("resnet50", 25.56))
  def test_resnet_has_as_many_parameters_as_published(self, name, published):
    size, head = duoformer.SIZES[name], 1000
    below = _parameters(lambda: resnet.ResNet(3, size=size, rngs=nnx.Rngs(0)))
    found = below + (resnet.DIMS[-1] * size.expansion + 1) * head / 1e6
    self.assertLess(abs(found - published) / published, 0.001, found)


class ModelTest(parameterized.TestCase):
  @parameterized.parameters(((64, 96),), ((70, 45),))
  def test_images_of_any_size_and_maps_of_every_stage(self, image):
    images = jax.ShapeDtypeStruct((2, *image, 3), jnp.float32)
    stages = [tuple(-(-side // cell) for side in image) for cell in (4, 8, 16, 32)]
    whole = [tuple(-(-side // 32) * 8 // 2**n for side in image) for n in range(4)]
    small = hilo.Size(8, (1, 1, 1, 1), (1, 1, 2, 2))
    plus = dataclasses.replace(crossformer.SIZES["S++"], dim=16, depths=(1, 1, 4, 1))
    encoder = {"dim": 16, "heads": 2, "depth": 1}
    for make, grids in (
      (lambda: hilo.Model(3, 5, size=small, rngs=nnx.Rngs(0)), stages),
      (lambda: crossformer.Model(3, 5, size=plus, rngs=nnx.Rngs(0)), stages),
      (
        lambda: duoformer.Model(3, 5, **encoder, rngs=nnx.Rngs(0)),
        [*whole, whole[-1]],
      ),
    ):

      def run(images, make=make):
        model: Any = make()
        given = {"key": jax.random.key(0), "stats": running.init_stats(model)}
        maps, _ = running.apply(model.features, images, **given, train=True)
        return maps, running.apply(model, images, stats=given["stats"], train=False)

      maps, (logits, _) = jax.eval_shape(run, images)
      self.assertEqual([x.shape[1:3] for x in maps], grids)
      self.assertEqual(logits.shape, (2, 5))

  def test_stages_need_one_entry_each(self):
    size = hilo.Size(8, (1, 1), (2, 2))
    with self.assertRaisesRegex(ValueError, "one entry a stage"):
      hilo.Model(3, 5, size=size, rngs=nnx.Rngs(0))
    size = crossformer.Size(8, (1, 1), (2, 2), 0.1)
    with self.assertRaisesRegex(ValueError, "one entry a stage"):
      crossformer.Model(3, 5, size=size, rngs=nnx.Rngs(0))


class MergingTest(absltest.TestCase):
  def test_taps_that_do_not_move_are_a_convolution(self):
    moving: Any = merging.DeformableMerge(3, 4, rngs=nnx.Rngs(0))
    still: Any = merging.DeformableMerge(3, 4, False, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 4, 3))
    run = jax.jit(lambda layer, x: layer(x, stats=layer.init_stats())[0])
    np.testing.assert_allclose(run(moving, x), run(still, x), atol=1e-6)
    # One row further down, which the last row of cells does not have.
    moving.move.bias[...] = jnp.tile(jnp.array([1.0, 0.0]), merging.TAPS)
    lower = jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)
    lower = jnp.pad(lower, ((0, 0), (0, 1), (0, 0), (0, 0)))
    np.testing.assert_allclose(run(moving, x), run(still, lower), atol=1e-6)

  def test_between_pixels_it_interpolates(self):
    x = jnp.arange(12.0).reshape(3, 4, 1)
    places = jnp.array([[0.5, 1.25], [-0.5, 0.0], [2.0, 3.75], [-2.0, 1.0]])
    got = merging.interpolated(x, places)[:, 0]
    np.testing.assert_allclose(got, [3.25, 0.0, 11 * 0.25, 0.0], atol=1e-6)


if __name__ == "__main__":
  absltest.main()
