"""The GPU kernels in Triton's interpreter against the definition."""

from tests import simulate  # noqa: F401  first: it sets what Triton reads

# ruff: isort: split
import functools

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from pallas_kernels import prefix_softmax
from pallas_kernels.prefix_softmax import CASES, triton_gpu
from tests.prefix_softmax import conformance, hard


class TritonTest(parameterized.TestCase):
  @parameterized.named_parameters((case.name, case) for case in CASES)
  def test_float32(self, case):
    conformance.check(case, "triton", 2e-5)

  def test_bfloat16(self):
    found = conformance.excess(CASES[-1], "triton", "bfloat16")
    for name, part in found.items():
      self.assertLessEqual(part, 1.0, name)

  def test_scores_of_any_size(self):
    run = functools.partial(
      prefix_softmax.prefix, impl="triton", tiles=triton_gpu.Tiles(16, 16)
    )
    with simulate.accelerators(detect_races=False):
      hard.check(run, 40)

  @parameterized.parameters((0, 5), (2, 0))
  def test_of_nothing(self, B, T):
    s, v = jnp.zeros((B, T, 2)), jnp.zeros((B, T, 2, 3))
    out, lse, last = prefix_softmax.prefix(s, v, impl="triton")
    self.assertEqual((out.shape, lse.shape), (v.shape, s.shape))
    self.assertEqual(last.out.shape, (B, 2, 3))

  def test_refusals(self):
    arrays = CASES[0].arrays()
    tiles = triton_gpu.Tiles(24, 16)
    with self.assertRaisesRegex(ValueError, "tiles.size 24 must be a power of two"):
      jax.eval_shape(
        lambda x: prefix_softmax.prefix(**x, impl="triton", tiles=tiles), arrays
      )
    double = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float64"), arrays)
    with self.assertRaisesRegex(NotImplementedError, "scores has the type float64"):
      triton_gpu.supports(**double)


if __name__ == "__main__":
  absltest.main()
