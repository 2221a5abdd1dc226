"""Depthwise convolutions against XLA's grouped ones."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.depthwise import depthwise


def _grouped(x, kernel):
  axes, channels = x.ndim - 2, x.shape[-1]
  names = "HW"[:axes]
  return jax.lax.conv_general_dilated(
    x,
    kernel[..., None, :],
    (1,) * axes,
    "SAME",
    dimension_numbers=(f"N{names}C", f"{names}IO", f"N{names}C"),
    feature_group_count=channels,
  )


class DepthwiseTest(parameterized.TestCase):
  @parameterized.parameters(
    ((1, 1), (1,)), ((2, 5), (7,)), ((2, 4, 7), (3, 5)), ((1, 1, 3), (5, 3))
  )
  def test_is_the_grouped_convolution(self, lead, sides):
    x = jax.random.normal(jax.random.key(0), (*lead, 3))
    kernel = jax.random.normal(jax.random.key(1), (*sides, 3))

    def run(function):
      def loss(x, kernel):
        out = function(x, kernel)
        return jnp.sum(jnp.sin(out)), out

      return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)

    got = run(lambda x, kernel: depthwise(x, kernel, axes=len(sides)))
    want = run(_grouped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), got, want)

  def test_channels_share_a_kernel(self):
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 1))
    wide = jnp.broadcast_to(kernel, (3, 3, 3, 6)).reshape(3, 3, 18)
    want = depthwise(x.reshape(2, 4, 5, 18), wide).reshape(x.shape)
    np.testing.assert_allclose(depthwise(x, kernel), want, atol=1e-5)

  def test_segments_are_as_if_alone(self):
    x = jax.random.normal(jax.random.key(0), (1, 12, 3))
    kernel = jax.random.normal(jax.random.key(1), (5, 3))
    ids = jnp.array([[4] * 5 + [0] * 4 + [-1] * 3])
    got = depthwise(x, kernel, ids, axes=1)
    alone = [depthwise(x[:, a:b], kernel, axes=1) for a, b in ((0, 5), (5, 9))]
    want = jnp.concatenate([*alone, jnp.zeros((1, 3, 3))], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-5)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, r"sides \(3, 2\) must be odd"):
      depthwise(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 2, 1)))
    with self.assertRaisesRegex(ValueError, "does not fit x"):
      depthwise(jnp.zeros((1, 4, 1)), jnp.zeros((3, 3, 1)))
    with self.assertRaisesRegex(NotImplementedError, "segment_ids on a grid of 2"):
      depthwise(
        jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1)), jnp.zeros((1, 16), "int32")
      )


if __name__ == "__main__":
  absltest.main()
