"""Toeplitz products by transforms, and the random features of exp(x . y)."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import random_features, toeplitz


class ToeplitzTest(parameterized.TestCase):
  @parameterized.parameters((1,), (2,), (33,), (64,), (100,), (5, 3), (1, 4))
  def test_transforms_are_the_matrix(self, *grid):
    """By a loop, with lags that differ by their sign."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(2, *(2 * T - 1 for T in grid)))
    x = rng.normal(size=(3, 2, *grid))
    want = np.zeros_like(x)
    for i in np.ndindex(*grid):
      for j in np.ndindex(*grid):
        lag = tuple(b - a + T - 1 for a, b, T in zip(i, j, grid))
        want[(..., *i)] += c[(slice(None), *lag)] * x[(..., *j)]
    axes = len(grid)
    c, x = jnp.float32(c), jnp.float32(x)
    scale = abs(want).max()
    for function in (toeplitz.multiply, toeplitz.direct):
      got = jax.jit(function, static_argnums=2)(c, x, axes)
      np.testing.assert_allclose(got, want, atol=1e-6 * scale, rtol=0)

  def test_gradients_are_those_of_the_matrix(self):
    keys = jax.random.split(jax.random.key(0), 3)
    c = jax.random.normal(keys[0], (2, 65))
    x, y = (jax.random.normal(key, (3, 2, 33)) for key in keys[1:])

    def gradients(function):
      return jax.jit(
        jax.grad(lambda c, x: (y * jnp.sin(function(c, x))).sum(), (0, 1))
      )(c, x)

    got, want = gradients(toeplitz.multiply), gradients(toeplitz.direct)
    for a, b in zip(got, want):
      np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)

  def test_does_not_wrap_round(self):
    c = jnp.zeros(13).at[0].set(1.0)  # only the lag -6 of T = 7
    x = jnp.arange(1.0, 8.0)
    np.testing.assert_allclose(
      toeplitz.multiply(c, x), [0, 0, 0, 0, 0, 0, 1], atol=1e-5
    )

  @parameterized.parameters((7, 1), (7, 3), (7, 7), (1, 1))
  def test_rows(self, T, R):
    c = jax.random.normal(jax.random.key(0), (2, 2 * T - 1))
    want = toeplitz.matrix(c, (T,))
    for start in (0, T - R):
      first = T - R - start
      got = toeplitz.rows(c[:, first : first + T + R - 1], R)
      np.testing.assert_array_equal(got, want[:, start : start + R])

  def test_lengths_are_products_of_small_primes(self):
    for length in range(1, 400):
      found, rest = toeplitz.fast_length(length), toeplitz.fast_length(length)
      self.assertGreaterEqual(found, length)
      for prime in (2, 3, 5):
        while rest % prime == 0:
          rest //= prime
      self.assertEqual(rest, 1)
      self.assertLess(found, 1.35 * length)

  def test_bfloat16_is_computed_in_float32(self):
    c, x = jnp.ones(199, "bfloat16"), jnp.ones(100, "bfloat16")
    y = toeplitz.multiply(c, x)
    self.assertEqual(y.dtype, "bfloat16")
    np.testing.assert_array_equal(y.astype("float32"), jnp.full(100, 100.0))

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, r"c \(6,\).*2 T - 1.*x \(3,\)"):
      toeplitz.multiply(jnp.ones(6), jnp.ones(3))


class RandomFeaturesTest(parameterized.TestCase):
  @parameterized.product(kind=("positive", "trigonometric"), orthogonal=(False, True))
  def test_expectation_is_the_exponential(self, kind, orthogonal):
    x, y = jax.random.normal(jax.random.key(0), (2, 5, 4)) / 3
    w = random_features.draw(jax.random.key(1), 40_000, 4, orthogonal=orthogonal)
    phi = getattr(random_features, kind)
    np.testing.assert_allclose(phi(x, w) @ phi(y, w).T, jnp.exp(x @ y.T), rtol=0.05)

  def test_orthogonal_rows(self):
    w = random_features.draw(jax.random.key(1), 11, 4)
    for start in (0, 4, 8):
      block = w[start : start + 4]
      product = block @ block.T
      apart = product - jnp.diag(jnp.diag(product))
      np.testing.assert_allclose(apart, jnp.zeros_like(apart), atol=1e-5)


if __name__ == "__main__":
  absltest.main()
