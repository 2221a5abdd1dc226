"""Every implementation of the softmax engine on problems that mix all features.

Simulated kernels are slow: here each problem runs in plain JAX and in one of the two,
in turn; `python -m tests.conformance` runs all of them in all.
"""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import re

from absl.testing import absltest, parameterized

from pallas_kernels import calling
from tests import conformance
from tests.suites import HEADING

_KERNELS = tuple(calling.BACKENDS)


class ConformanceTest(parameterized.TestCase):
  @parameterized.parameters(*range(len(conformance.problems())))
  def test_agrees_with_the_definition(self, index):
    problem = conformance.problems()[index]
    for impl in ("reference", "xla", _KERNELS[index % 2]):
      with simulate.accelerators(detect_races=False):
        found = conformance.excess(index, impl)
      for name, part in found.items():
        self.assertLessEqual(part, 1.0, f"{name} of {impl}: {problem}")

  def test_every_pair_of_values_occurs(self):
    problems = conformance.problems()
    names = list(conformance.FEATURES)
    for i, a in enumerate(names):
      for b in names[i + 1 :]:
        pairs = {(p[a], p[b]) for p in problems}
        whole = len(conformance.FEATURES[a]) * len(conformance.FEATURES[b])
        self.assertLen(pairs, whole, f"{a}, {b}")

  def test_the_page_is_of_these_problems(self):
    page = conformance.PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    self.assertIn(f"Each of {len(conformance.problems())} problems", page)
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|(.*)\|$", page, re.M)[1:]
    want = [(f, v) for f, values in conformance.FEATURES.items() for v in values]
    self.assertEqual([(f, v) for f, v, _ in rows], want)
    for feature, value, cells in rows:
      numbers = re.findall(r"\d+\.\d\d", cells)
      self.assertLen(numbers, 4 * (1 if feature == "type" else 2), f"{feature} {value}")
      self.assertLessEqual(max(map(float, numbers)), 1.0, f"{feature} {value}")


if __name__ == "__main__":
  absltest.main()
