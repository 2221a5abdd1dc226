"""The benchmark of growth with the length: its fit, and one run at tiny lengths."""

import math
import tempfile
from pathlib import Path

from absl.testing import absltest, parameterized

from experiments.bench import length


class LengthTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1.0, 1.5, 2.0)
  def test_the_exponent_of_a_power(self, power):
    lengths = [16, 32, 64, 128]
    self.assertAlmostEqual(
      length.exponent(lengths, [3 * t**power for t in lengths]), power
    )

  def test_only_the_upper_half_counts(self):
    values = [100.0, 100.0, 100.0, 64.0, 128.0]
    lengths = [1, 2, 4, 64, 128]
    # ceil(5 / 2) = 3 lengths: 4, 64 and 128.
    x, y = ([math.log(v) for v in part[2:]] for part in (lengths, values))
    mean_x, mean_y = sum(x) / 3, sum(y) / 3
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    slope /= sum((a - mean_x) ** 2 for a in x)
    self.assertAlmostEqual(length.exponent(lengths, values), slope)

  def test_no_exponent_without_two_positive_numbers(self):
    self.assertIsNone(length.exponent([8], [1.0]))
    self.assertIsNone(length.exponent([8, 16], [0, 0]))

  def test_a_run(self):
    picture = Path(self.enterContext(tempfile.TemporaryDirectory())) / "length.png"
    slugs = ["dynamical_systems", "dot_product"]
    rows, _ = length.rows(slugs, (128, 64), picture)
    names = [(row["name"], row["pass"]) for row in rows]
    self.assertEqual(names, [(s, p) for s in slugs for p in length.PASSES])
    for row in rows:
      self.assertEqual(row["lengths"], [64, 128])
      self.assertGreater(min(row["seconds"] + row["flops"]), 0)
    linear, softmax = (row["exponents"]["flops"] for row in rows[::2])
    self.assertLess(linear, 1.1)
    self.assertGreater(softmax, linear)
    self.assertEqual(picture.read_bytes()[:4], b"\x89PNG")
    self.assertNotIn("bound", rows[2])
    text = length.table(rows)
    self.assertLen(text.splitlines(), 5)

  def test_a_bound_that_is_missed_does_not_hold(self):
    verdicts = [length._verdict("lightning2", p) for p in (1.0, 1.4, None)]
    self.assertEqual([v["holds"] for v in verdicts], [True, False, True])

  def test_sequence_mechanisms_are_listed(self):
    found = length.mechanisms()
    self.assertIn("lightning2", found)
    with self.assertRaisesRegex(ValueError, "unknown mechanism 'lightening'"):
      length.rows(["lightening"], (8,))


if __name__ == "__main__":
  absltest.main()
