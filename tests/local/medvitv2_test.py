"""MedViTV2: what the paper and its code promise."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core.grids.partition import relative
from attnjax.nn import drop_path
from attnjax.variants.local import medvitv2
from attnjax.variants.local.medvitv2 import layers


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _heads(*grid, window=3):
  keys = jax.random.split(jax.random.key(0), 4)
  bias_table = jax.random.normal(keys[3], (2 * window - 1,) * 2 + (2,))
  return *(jax.random.normal(key, (1, *grid, 2, 4)) for key in keys[:3]), bias_table


class AttendTest(parameterized.TestCase):
  def test_a_window_as_large_as_the_map_is_dense_attention(self):
    q, k, v, bias_table = _heads(3, 3)
    got = medvitv2.attend(q, k, v, bias_table, window=3)
    one, two, three = (x.reshape(1, 9, 2, 4) for x in (q, k, v))
    bias = relative(jnp.moveaxis(bias_table, -1, 0))[None]
    _close(got.reshape(1, 9, 2, 4), jax.nn.dot_product_attention(one, two, three, bias))

  def test_dilation_is_independent_interleaved_maps(self):
    q, k, v, bias_table = _heads(8, 6)
    got = medvitv2.attend(q, k, v, bias_table, window=3, dilation=2)

    def maps(x):
      return jnp.concatenate([x[:, a::2, b::2] for a, b in np.ndindex(2, 2)])

    want = medvitv2.attend(maps(q), maps(k), maps(v), bias_table, window=3)
    _close(maps(got), want)

  def test_no_more_than_the_neighbours_are_seen_in_large_maps(self):
    # 17 needs three blocks of 6, of which the last has 5 tokens.
    q, k, v, bias_table = _heads(17, 2)

    def one(v):
      return medvitv2.attend(q, k, v, bias_table, window=3)[0, :, 0, 0, 0]

    seen = np.asarray(jax.jit(jax.jacobian(one))(v) != 0).any(axis=(1, 3, 4, 5))
    place = np.arange(17)
    start = np.clip(place - 1, 0, 14)[:, None]
    np.testing.assert_array_equal(seen, (start <= place) & (place < start + 3))

  @parameterized.parameters(
    ({"window": 0}, "window = 0"),
    ({"window": 2}, r"table \(5, 5, 2\) must be \(3, 3\)"),
    ({"window": 3, "dilation": 0}, "dilation = 0"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      medvitv2.attend(*_heads(4, 4), **options)


class LayerTest(parameterized.TestCase):
  def test_every_second_layer_is_dilated(self):
    layer: Any = medvitv2.Layer(8, heads=2, window=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 6, 9, 8))
    run = jax.jit(lambda layer, x, index: contract.weights(layer, x, index=index))
    row, column = np.indices((6, 9)).reshape(2, -1)
    near, far = (np.asarray(run(layer, x, index))[0, 0] > 0 for index in (0, 1))
    np.testing.assert_array_equal(near.sum(-1), 9)
    np.testing.assert_array_equal(
      far,
      (row[:, None] % 2 == row % 2) & (column[:, None] % 3 == column % 3),
    )

  @parameterized.parameters(
    ({"form": "causal"}, "unknown form 'causal'"),
    ({"dilation": -1}, "dilation = -1"),
    ({"heads": 3}, "dim = 8 does not divide by heads = 3"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      medvitv2.Layer(8, **options, rngs=nnx.Rngs(0))


class KANTest(absltest.TestCase):
  def test_bumps(self):
    centres = jnp.linspace(-2, 2, 8)
    found = medvitv2.bumps(jnp.linspace(-3, 3, 101), centres)
    self.assertGreaterEqual(found.min(), 0)  # far ones are rounded to 0
    self.assertLessEqual(found.max(), 1)
    _close(jnp.diagonal(medvitv2.bumps(centres, centres)), jnp.ones(8))
    _close(
      medvitv2.bumps(centres + 0.1, centres[3:4])[3], 1 - jnp.tanh(0.1 / 0.33) ** 2
    )
    _close(found, found[::-1, ::-1])

  def test_mean_and_scale_of_the_inputs_do_not_matter(self):
    kan: Any = medvitv2.FasterKAN((6, 5, 3), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (4, 6))
    run = jax.jit(lambda kan, x: kan(x))
    moved = x * jnp.array([[0.5], [2.0], [3.0], [9.0]]) + 4
    _close(run(kan, moved), run(kan, x), 1e-3)
    kan.layers[1].weight[...] = jnp.zeros((5, 8, 3))
    np.testing.assert_array_equal(run(kan, x), 0)

  def test_the_gradient_is_that_of_the_bumps(self):
    keys = jax.random.split(jax.random.key(0))
    x, weight = jax.random.normal(keys[0], (3,)), jax.random.normal(keys[1], (3, 8, 2))
    got = jax.jacobian(medvitv2.kan_layer)(x, weight)
    t = jnp.tanh((x[:, None] - jnp.linspace(-2, 2, 8)) / 0.33)
    want = jnp.einsum("ig,ige->ei", -2 * t * (1 - t**2) / 0.33, weight)
    _close(got, want, 1e-4)


class BlocksTest(parameterized.TestCase):
  def test_local_and_global_blocks_are_those_of_the_paper(self):
    size = medvitv2.SIZES["base"]
    model = jax.eval_shape(lambda: medvitv2.Model(3, 7, **size, rngs=nnx.Rngs(0)))
    stages = model.stages.stages
    kinds = ["".join(type(b).__name__[0] for b in s.sequence) for s in stages]
    self.assertEqual(kinds, ["LL", "LG", "LLGLLG", "GG"])

    def features(model, images):
      return model.features(images, stats=model.init_stats())[0]

    images = jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32)
    maps = jax.eval_shape(features, model, images)
    grids = [(24, 16), (12, 8), (6, 4), (3, 2)]
    wanted = [(*grid, dim) for grid, dim in zip(grids, size["dims"])]
    self.assertEqual([x.shape[1:] for x in maps], wanted)

  def test_pooled_weights_give_the_attention(self):
    pooled: Any = layers.Pooled(8, head_dim=4, ratio=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 3, 5, 8))

    @jax.jit
    def run(pooled, x):
      stats = pooled.init_stats()
      weights = pooled.weights(x, stats=stats)
      means = x.reshape(1, 15, 8)[:, :12].reshape(1, 3, 4, 8).mean(2)
      v = pooled.qkv.value(pooled.norm(means, stats["norm"])[0])
      out = pooled.out(jnp.einsum("bnts,bsnv->btnv", weights, v))
      return out.reshape(x.shape), pooled(x, stats=stats)[0], weights.sum(-1)

    got, want, total = run(pooled, x)
    _close(got, want)
    _close(total, jnp.ones((1, 2, 15)))

  def test_each_branch_is_dropped_by_its_share(self):
    rates = []

    def drop(y, rate, key):
      rates.append((y.shape[-1], round(rate, 6), key is None))
      return y

    def run(x):
      block: Any = medvitv2.GFP(128, 128, drop=0.4, rngs=nnx.Rngs(0))
      return block(x, key=jax.random.key(0), stats=block.init_stats())

    with mock.patch.object(drop_path, "drop", drop):
      jax.eval_shape(run, jax.ShapeDtypeStruct((1, 2, 2, 128), jnp.float32))
    self.assertEqual(rates, [(96, 0.3, False), (32, 0.1, False), (128, 0.4, False)])

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "dim = 96: attention makes 96 channels"):
      medvitv2.GFP(96, 96, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, "one entry a stage"):
      medvitv2.Model(3, 7, dims=(64, 128), depths=(1, 1), rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
