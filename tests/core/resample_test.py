"""Bins and interpolation against loops and `jax.image.resize`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import resample


class BinsTest(parameterized.TestCase):
  @parameterized.parameters((4, 10), (3, 9), (7, 3), (5, 1))
  def test_are_means_of_floor_to_ceil(self, number, size):
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    wanted = [
      x[i * size // number : math.ceil((i + 1) * size / number)].mean()
      for i in range(number)
    ]
    np.testing.assert_allclose(resample.bins(number, size)[0] @ x, wanted, atol=1e-6)

  def test_a_shorter_length_is_as_if_alone(self):
    got = resample.bins(4, 10, jnp.array([10, 7, 0]))
    np.testing.assert_allclose(got[0], resample.bins(4, 10)[0])
    np.testing.assert_allclose(got[1, :, :7], resample.bins(4, 7)[0])
    np.testing.assert_allclose(got[1, :, 7:], 0)
    np.testing.assert_allclose(got[2], 0)


class LinearTest(parameterized.TestCase):
  @parameterized.parameters((7, 7), (10, 7), (36, 5), (7, 1))
  def test_is_resize_with_half_pixel_centres(self, size, points):
    table = jax.random.normal(jax.random.key(0), (points,))
    wanted = jax.image.resize(table, (size,), "linear", antialias=False)
    np.testing.assert_allclose(
      resample.linear(size, points)[0] @ table, wanted, atol=1e-6
    )

  def test_fewer_places_are_not_smoothed(self):
    table = jax.random.normal(jax.random.key(0), (7,))
    # The places' centres are at 2/3, 3 and 16/3 of the table.
    wanted = [
      table[0] / 3 + table[1] * 2 / 3,
      table[3],
      table[5] * 2 / 3 + table[6] / 3,
    ]
    np.testing.assert_allclose(resample.linear(3, 7)[0] @ table, wanted, atol=1e-6)

  def test_a_shorter_length_is_as_if_alone(self):
    got = resample.linear(10, 7, jnp.array([4]))
    np.testing.assert_allclose(got[0, :4], resample.linear(4, 7)[0], atol=1e-6)


class CubicTest(parameterized.TestCase):
  # Of a = -0.75 the weights at 1/2 are -3/32, 19/32, 19/32, -3/32.
  def test_weights_half_way_by_hand(self):
    got = resample.cubic(7, 4, corners=True)
    near, far = 19 / 32, -3 / 32
    np.testing.assert_allclose(got[::2], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(got[3], [far, near, near, far], atol=1e-12)
    # The ends stand for the points beyond them.
    np.testing.assert_allclose(got[1], [far + near, near, far, 0], atol=1e-12)
    np.testing.assert_allclose(got[5], [0, far, near, far + near], atol=1e-12)

  def test_centres_of_half_pixels_by_hand(self):
    # Two places of four points are at 1/2 and 5/2.
    near, far = 19 / 32, -3 / 32
    want = [[far + near, near, far, 0], [0, far, near, far + near]]
    np.testing.assert_allclose(resample.cubic(2, 4), want, atol=1e-12)

  @parameterized.parameters((1, 5, True), (6, 1, True), (6, 1, False), (9, 4, False))
  def test_keeps_constants(self, size, points, corners):
    got = resample.cubic(size, points, corners=corners)
    self.assertEqual(got.shape, (size, points))
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-12)
    if size == 1 and corners:
      np.testing.assert_allclose(got[0], np.eye(points)[0])


if __name__ == "__main__":
  absltest.main()
