"""The TPU kernels in the simulator (NaN in its memory) against the definition."""

from tests import simulate  # noqa: F401  first: it sets what Triton reads

# ruff: isort: split
from absl.testing import absltest, parameterized

from pallas_kernels.dynamic_window import CASES
from tests.dynamic_window import conformance


class MosaicTest(parameterized.TestCase):
  @parameterized.named_parameters((case.name, case) for case in CASES)
  def test_float32(self, case):
    conformance.check(case, "pallas")


if __name__ == "__main__":
  absltest.main()
