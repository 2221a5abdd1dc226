"""CrossFormer: what the papers and their code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.local import crossformer


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _heads(*grid):
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (1, *grid, 2, 4)) for key in keys]


def _layer(**options) -> Any:
  given: dict[str, Any] = {"heads": 2, "window": 3, "bias_width": 4} | options
  return crossformer.Layer(8, **given, rngs=nnx.Rngs(0))


_weights = jax.jit(lambda layer, x, index: contract.weights(layer, x, index=index))


class AttendTest(absltest.TestCase):
  def test_a_constant_bias_changes_nothing(self):
    q, k, v = _heads(4, 6)
    bias_table = jnp.broadcast_to(jnp.array([3.0, -1.0]), (5, 5, 2))
    options = {"window": 3, "interval": 2}
    got = crossformer.attend(q, k, v, bias_table, **options)
    _close(got, crossformer.attend(q, k, v, **options))

  def test_far_groups_of_a_periodic_map_are_periodic(self):
    q, k, v = (jnp.tile(x, (1, 3, 3, 1, 1)) for x in _heads(2, 2))
    out = crossformer.attend(q, k, v, window=3, interval=2)
    # All tokens of a group are the same, so each gives its own value.
    _close(out, v)

  def test_errors(self):
    q, k, v = _heads(4, 6)
    with self.assertRaisesRegex(ValueError, "window = 0"):
      crossformer.attend(q, k, v, window=0, impl="reference")
    with self.assertRaisesRegex(ValueError, r"interval = \(2,\) on a grid of 2"):
      crossformer.attend(q, k, v, window=2, interval=(2,))
    with self.assertRaisesRegex(ValueError, r"table \(3, 3, 2\) must be \(5, 5\)"):
      crossformer.attend(q, k, v, jnp.ones((3, 3, 2)), window=3)


class LayerTest(parameterized.TestCase):
  def test_near_and_far_in_turn_reach_everything(self):
    layer = _layer()  # the intervals are 3 and 2
    x = jax.random.normal(jax.random.key(1), (1, 9, 6, 8))
    short, long = (np.asarray(_weights(layer, x, i))[0] for i in (0, 1))
    cell, interval = np.indices((9, 6)).reshape(2, -1), np.array([[3], [2]])
    for weights, mark in ((short, cell // 3), (long, cell % interval)):
      same = (mark[:, :, None] == mark[:, None]).all(0)
      np.testing.assert_array_equal(weights[0] > 0, same)
      _close(weights.sum(-1), np.ones((2, 54)))
    self.assertGreater((long[0] @ short[0]).min(), 0)

  def test_intervals_above_the_group_need_two_turns(self):
    layer = _layer()  # the interval of the rows is 4
    x = jax.random.normal(jax.random.key(1), (1, 12, 4, 8))
    short, long = (np.asarray(_weights(layer, x, i))[0, 0] for i in (0, 1))
    once = long @ short
    self.assertEqual(once.min(), 0)
    self.assertGreater((once @ once).min(), 0)

  def test_a_side_within_the_group_is_one_group(self):
    layer = _layer(window=5)
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 8))
    self.assertGreater(_weights(layer, x, 1).min(), 0)

  def test_one_network_serves_all_groups(self):
    bias: Any = crossformer.DynamicBias(4, 2, rngs=nnx.Rngs(0))
    small, large = (jax.jit(lambda bias, g=g: bias(g))(bias) for g in (2, 4))
    self.assertEqual(large.shape, (7, 7, 2))
    _close(large[2:5, 2:5], small)
    self.assertGreater(jnp.abs(large[0, 0] - large[3, 3]).max(), 0)

  @parameterized.parameters(
    ({"form": "sequence"}, "unknown form 'sequence'.*image"),
    ({"kind": "far"}, "unknown kind 'far'"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
    ({"interval": -1}, "interval = -1"),
    ({"heads": 3}, "dim = 8 does not divide by heads = 3"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)


class CrossScaleTest(parameterized.TestCase):
  def test_one_size_is_a_patch_embedding(self):
    layer: Any = crossformer.CrossScale(3, 8, (2,), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 5, 4, 3))

    @jax.jit
    def run(layer, x):
      cells = jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))).reshape(1, 3, 2, 2, 2, 3)
      part = layer.convolutions[0]
      y = jnp.einsum("byixjc,ijcd->byxd", cells, part.kernel[...])
      return layer(x), layer.norm(y + part.bias[...])

    _close(*run(layer, x))

  @parameterized.parameters(
    ((4, 8, 16, 32), False, [32, 16, 8, 8]), ((2, 4), True, [32, 32])
  )
  def test_large_kernels_get_few_channels(self, sizes, first, channels):
    def make(x):
      layer: Any = crossformer.CrossScale(6, 64, sizes, first=first, rngs=nnx.Rngs(0))
      self.assertEqual([p.kernel.shape[-1] for p in layer.convolutions], channels)
      return layer(x)

    x = jax.ShapeDtypeStruct((1, 33, 40, 6), jnp.float32)
    grid = (-(-33 // sizes[0]), -(-40 // sizes[0]))
    self.assertEqual(jax.eval_shape(make, x).shape, (1, *grid, 64))

  @parameterized.parameters(
    ((4, 4), 8, "ascending"), ((4, 7), 8, "all even or all odd"), ((2, 4), 7, "dim = 7")
  )
  def test_errors(self, sizes, dim, message):
    with self.assertRaisesRegex(ValueError, message):
      crossformer.CrossScale(3, dim, sizes, rngs=nnx.Rngs(0))


class ModelTest(absltest.TestCase):
  def test_every_third_block_but_the_last_is_cooled(self):
    depths = (3, 4, 7)
    options = {"heads": (2,) * 3, "groups": (4,) * 3, "intervals": (0,) * 3}
    options |= {"dim": 16, "depths": depths, "cooling": True}
    model: Any = jax.eval_shape(
      lambda: crossformer.Model(3, 5, **options, rngs=nnx.Rngs(0))
    )
    stages = [stage.sequence for stage in model.stages.stages]
    cooled = [[i for i, b in enumerate(s) if hasattr(b, "block")] for s in stages]
    self.assertEqual(cooled, [[], [2], [2, 5]])

  def test_stages_need_one_entry_each(self):
    with self.assertRaisesRegex(ValueError, r"heads = \(2, 2\).*one entry a stage"):
      crossformer.Model(3, 5, depths=(1, 1), heads=(2, 2), rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
