"""Newton's inverse against LAPACK's."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import inverse
from attnjax.core.inverse import newton_inverse


def _kernels(B, M, H, spread=1.0):
  """Gaussian kernel matrices of M points each."""
  x = spread * jax.random.normal(jax.random.key(0), (B, M, H))
  far = jnp.square(x[:, :, None] - x[:, None]).sum(-1)
  return jnp.exp(-far / 2)


def _error(found, wanted):
  return float(np.abs(found - wanted).max() / np.abs(wanted).max())


class NewtonTest(parameterized.TestCase):
  def test_twenty_steps_are_enough_and_forty_better(self):
    matrix = _kernels(3, 12, 4)
    wanted = np.linalg.pinv(np.asarray(matrix, np.float64) + 0.01 * np.eye(12))
    errors = {
      n: _error(newton_inverse(matrix, iterations=n), wanted) for n in (8, 20, 40)
    }
    self.assertLess(np.linalg.cond(matrix + 0.01 * np.eye(12)).max(), 1e3)
    self.assertLess(errors[20], 1e-3)
    self.assertLess(errors[20], errors[8])
    self.assertLessEqual(errors[40], errors[20])

  @parameterized.parameters((1, 0.01), (16, 0.01), (196, 0.01), (16, 1e-3))
  def test_enough_steps_for_equal_points(self, M, jitter):
    found = newton_inverse(jnp.ones((1, M, M)), jitter=jitter)[0]
    # That of 1 1^T + jitter I.
    wanted = (np.eye(M) - 1 / (M + jitter)) / jitter
    self.assertLess(_error(found, wanted), 2e-6 * M / jitter)
    number = inverse.steps(M, jitter)
    fewer = newton_inverse(jnp.ones((1, M, M)), jitter=jitter, iterations=number - 5)[0]
    if M > 1:
      self.assertGreater(_error(fewer, wanted), 0.1)

  def test_no_number_of_steps_is_enough_without_jitter(self):
    with self.assertRaisesRegex(ValueError, "iterations = 0 needs a jitter above 0"):
      newton_inverse(jnp.ones((2, 2)), jitter=0.0)

  @parameterized.parameters("analytic", "autodiff")
  def test_gradient_is_that_of_the_inverse(self, gradient):
    matrix = _kernels(2, 7, 4)
    weight = jax.random.normal(jax.random.key(1), matrix.shape)

    def found(matrix):
      inverse = newton_inverse(matrix, iterations=30, gradient=gradient)
      return (weight * inverse).sum()

    def wanted(matrix):
      return (weight * jnp.linalg.inv(matrix + 0.01 * jnp.eye(7))).sum()

    self.assertLess(_error(jax.grad(found)(matrix), jax.grad(wanted)(matrix)), 1e-3)

  def test_few_steps_tell_the_gradients_apart(self):
    matrix = _kernels(1, 7, 4)

    def gradient(kind):
      run = lambda m: newton_inverse(m, iterations=2, gradient=kind).sum()  # noqa: E731
      return jax.grad(run)(matrix)

    self.assertGreater(_error(gradient("analytic"), gradient("autodiff")), 1e-2)
    found = newton_inverse(matrix, iterations=2)
    wanted = -found.mT @ jnp.ones_like(matrix) @ found.mT
    self.assertLess(_error(gradient("analytic"), wanted), 1e-5)

  def test_only_the_batch_start_couples_matrices(self):
    matrix = jnp.concatenate([_kernels(1, 7, 4), _kernels(1, 7, 4, spread=0.5)])
    for start, coupled in (("matrix", False), ("batch", True)):
      whole = newton_inverse(matrix, iterations=6, start=start)[:1]
      alone = newton_inverse(matrix[:1], iterations=6, start=start)
      self.assertEqual(_error(whole, alone) > 1e-4, coupled, start)

  def test_bfloat16_is_computed_in_float32(self):
    matrix = _kernels(1, 7, 4).astype("bfloat16")
    found = newton_inverse(matrix)
    self.assertEqual(found.dtype, "float32")
    self.assertLess(_error(found, newton_inverse(matrix.astype("float32"))), 1e-6)

  @parameterized.parameters(
    ({"gradient": "exact"}, "gradient 'exact' is none of analytic, autodiff"),
    ({"start": "row"}, "start 'row' is none of matrix, batch"),
    ({"iterations": -1}, "iterations = -1"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      newton_inverse(jnp.eye(3), **options)


if __name__ == "__main__":
  absltest.main()
