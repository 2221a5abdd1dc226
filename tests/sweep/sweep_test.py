"""The first problems of the sweep; `make sweep` runs a thousand for each kernel."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
from absl.testing import absltest, parameterized

from tests.sweep.kernels import KERNELS, failure

# 60 in all; simulators are slow.
COUNTS = {
  "flash_xla": 20,
  "flash_triton": 8,
  "flash_pallas": 4,
  "decayed_linear_xla": 8,
  "decayed_linear_triton": 4,
  "decayed_linear_pallas": 2,
  "prefix_softmax_chunked": 8,
  "prefix_softmax_triton": 4,
  "prefix_softmax_pallas": 2,
}


def problems():
  for kernel, count in COUNTS.items():
    for seed in range(count):
      yield f"{kernel}_{seed}", kernel, seed


class SweepTest(parameterized.TestCase):
  @parameterized.named_parameters(*problems())
  def test_is_as_exact_as_the_plain_formula(self, kernel, seed):
    with simulate.accelerators(detect_races=False):
      words = failure(kernel, seed)
    run = f"python -m tests.sweep --kernel {kernel} --seed {seed}"
    self.assertEmpty(words, f"{run}: {KERNELS[kernel][1](seed)}")


if __name__ == "__main__":
  absltest.main()
