"""MSA-Conv: what the paper and its code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.local import msa_conv


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _heads(*grid):
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (1, *grid, 2, 4)) for key in keys]


class AttendTest(parameterized.TestCase):
  def test_a_kernel_of_one_gives_the_values(self):
    q, k, v = _heads(3, 4)
    _close(msa_conv.attend(q, k, v, window=1), v)

  def test_a_masked_kernel_as_large_as_the_image_is_dense_attention(self):
    q, k, v = _heads(3, 4)
    got = msa_conv.attend(q, k, v, window=7, border="mask")
    flat = [x.reshape(1, 12, 2, 4) for x in (q, k, v)]
    want = jax.nn.dot_product_attention(*flat)
    _close(got.reshape(want.shape), want)

  def test_windows_equal_patches_of_the_image(self):
    q, k, v = _heads(5, 6)
    form = {"window": (3, 5), "dilation": (2, 1)}
    got = msa_conv.window_qk(q, k, **form)
    patches = jax.lax.conv_general_dilated_patches(
      k.reshape(1, 5, 6, 8),
      (3, 5),
      (1, 1),
      ((2, 2), (2, 2)),
      rhs_dilation=(2, 1),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).reshape(1, 5, 6, 2, 4, 15)
    _close(got, jnp.einsum("byxnh,byxnhp->byxnp", q, patches))
    # The sum of values is the transpose of the scores by the keys.
    _, back = jax.vjp(lambda k: msa_conv.window_qk(q, k, **form), k)
    (gathered,) = back(got)
    summed = msa_conv.window_av(got, v, **form)
    _close(jnp.vdot(got, msa_conv.window_qk(q, v, **form)), jnp.vdot(summed, q), 1e-4)
    _close(jnp.vdot(gathered, k), jnp.vdot(got, got), 1e-4)

  def test_zeros_beyond_the_image_take_weight(self):
    q, k, v = _heads(1, 1)
    weight = jax.nn.sigmoid((q * k).sum(-1) * 0.5 - jnp.log(8.0))
    _close(msa_conv.attend(q, k, v), weight[..., None] * v)
    _close(msa_conv.attend(q, k, v, border="mask"), v)

  @parameterized.parameters(
    ({"window": 4}, "window = 4: its sides must be odd"),
    ({"window": (3, 3, 3)}, "one or two positive"),
    ({"dilation": 0}, "dilation = 0"),
    ({"border": "wrap"}, "unknown border 'wrap'"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      msa_conv.attend(*_heads(3, 3), **options)


class LayerTest(parameterized.TestCase):
  def test_inner_tokens_move_with_the_image(self):
    layer: Any = msa_conv.Layer(8, window=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 9, 9, 8))
    run = jax.jit(lambda x: layer(x))
    moved = run(jnp.roll(x, (1, 2), axis=(1, 2)))
    # Two tokens from the border: the attention's kernel, then the convolution's.
    _close(moved[:, 3:7, 4:7], run(x)[:, 2:6, 2:5])

  def test_shifts_join_opposite_borders(self):
    plain: Any = msa_conv.Layer(8, heads=4, rngs=nnx.Rngs(0))
    rolled: Any = msa_conv.Layer(8, heads=4, shift=1, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 5, 5, 8))
    run = jax.jit(lambda layer, x: layer.weights(x))
    near, far = (np.asarray(run(layer, x))[0] for layer in (plain, rolled))
    self.assertEqual(near[:, 2, 22].max(), 0)
    # The upper border sees the lower one in the head whose keys are rolled down.
    self.assertEqual(
      [bool(head[2, 22] > 0) for head in far], [False, True] + [False] * 2
    )

  def test_pooling_sees_farther(self):
    layer: Any = msa_conv.Layer(8, pooling=True, border="mask", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 6, 6, 8))
    weights = jax.jit(lambda layer, x: layer.weights(x))(layer, x)
    _close(weights.sum(-1), jnp.ones((1, 1, 36)))
    self.assertEqual(int((weights[0, 0, 0] > 0).sum()), 16)

  def test_strides_and_widths(self):
    def make(x):
      layer: Any = msa_conv.MSAConv2d(
        6, 10, window=(5, 3), stride=2, heads=6, rngs=nnx.Rngs(0)
      )
      return layer(x)

    x = jax.ShapeDtypeStruct((2, 7, 8, 6), jnp.float32)
    self.assertEqual(jax.eval_shape(make, x).shape, (2, 4, 4, 10))

  @parameterized.parameters(
    ({"form": "causal"}, "unknown form 'causal'"),
    ({"shift": -1}, "shift = -1"),
    ({"heads": 3}, "dim = 8 does not divide by heads = 3"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      msa_conv.Layer(8, **options, rngs=nnx.Rngs(0))

  def test_a_head_of_several_directions_has_no_weights(self):
    layer: Any = msa_conv.Layer(8, shift=1, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(NotImplementedError, "shift = 1 and heads = 1"):
      layer.weights(jnp.ones((1, 3, 3, 8)))


if __name__ == "__main__":
  absltest.main()
