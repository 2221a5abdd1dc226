"""Metrics of answers about points: numbers by hand."""

import math

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.training import answers, measures
from experiments.training.objectives import pointing

# A square with a point inside, and one that is no point.
POINTS = [[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.25], [9, 9]]
TRUE = [1, 2, 3, 4, 0, -1]
VALID = [1, 1, 1, 1, 1, 0]


def _batch(*rows, true=TRUE):
  count = len(rows)
  labels = [true] * (count - 1) + [[-1] * len(true)]  # the last row is padding
  batch = {
    "points": jnp.array([POINTS] * count, jnp.float32),
    "labels": jnp.array(labels, jnp.int32),
    "valid": jnp.array([VALID] * count, bool),
  }
  return {"answer": jnp.array(rows, jnp.int32)}, batch


def _measured(name, *rows, true=TRUE):
  outputs, batch = _batch(*rows, rows[0], true=true)
  module = measures.load(name)
  sums = {n: float(x) for n, x in module.totals(outputs, batch).items()}
  return module.value(sums)


class MeasuresTest(parameterized.TestCase):
  @parameterized.parameters(
    ([1, 2, 3, 4, 0, -1], 1),
    ([3, 4, 1, 2, 0, -1], 1),
    ([2, 1, 4, 3, 0, -1], 1),
    ([1, 3, 2, 4, 0, -1], 0),
    ([1, 2, 3, 0, -1, -1], 0),
    ([1, 2, 3, 4, 5, 0], 0),
    ([0, -1, -1, -1, -1, -1], 0),
  )
  def test_polygons_from_any_corner(self, row, want):
    self.assertEqual(_measured("exact_polygons", row), want)
    exact = row == TRUE
    self.assertEqual(_measured("exact_answers", row), exact)
    self.assertEqual(_measured("exact_answers", row, TRUE), (exact + 1) / 2)

  @parameterized.parameters(
    ([1, 2, 3, 4, 0, -1], 1, 1.0),
    ([4, 3, 2, 1, 0, -1], 1, 1.0),
    ([1, 2, 3, 0, -1, -1], 1, 0.5),
    ([1, 5, 2, 3, 4, 0], 1, 1 - 0.125),
    ([1, 3, 2, 4, 0, -1], 0, 0.0),  # edges cross
    ([1, 2, 0, -1, -1, -1], 0, 0.0),
    ([1, 2, 3, 1, 0, -1], 0, 0.0),
    ([1, 2, 3, 4, 5, 2], 0, 0.0),
    ([0, -1, -1, -1, -1, -1], 0, 0.0),
  )
  def test_area_of_simple_polygons(self, row, simple, area):
    self.assertEqual(_measured("simple_polygons", row), simple)
    self.assertAlmostEqual(_measured("area_coverage", row), area)
    # Polygons that are not simple are left out of the mean.
    both = _measured("area_coverage", row, [1, 2, 4, 0, -1, -1])
    self.assertAlmostEqual(both, (area + 0.5) / 2 if simple else 0.5)

  @parameterized.parameters(
    ([1, 2, 3, 1, 3, 4, 0], 1.0),
    ([4, 3, 1, 2, 1, 3, 0], 1.0),
    ([1, 3, 4, 0, -1, -1, -1], 0.5),
    ([1, 3, 4, 1, 3, 4, 0], 0.5),
    ([1, 3, 4, 1, 2, 0, -1], 0.5),
    ([2, 3, 4, 0, -1, -1, -1], 0.0),
  )
  def test_triangles_in_any_order(self, row, want):
    true = [1, 2, 3, 1, 3, 4, 0]
    self.assertEqual(_measured("triangle_coverage", row, true=true), want)

  def test_tours(self):
    true = [1, 5, 2, 3, 4, 0]
    side = math.hypot(0.5, 0.25)
    least = 3 + 2 * side
    self.assertAlmostEqual(_measured("tour_ratio", true, true=true), 1)
    other = [1, 2, 5, 3, 4, 0]
    length = 3 + side + math.hypot(0.5, 0.75)
    got = _measured("tour_ratio", other, true, [1, 2, 3, 4, 0, -1], true=true)
    self.assertAlmostEqual(got, (length + least) / (2 * least), places=5)
    self.assertEqual(_measured("whole_tours", true, [1, 2, 3, 4, 4, 0], true=true), 0.5)
    self.assertEqual(_measured("whole_tours", [1, 2, 3, 4, 0, -1], true=true), 0)
    twice = _measured("tour_ratio", [1, 2, 3, 4, 4, 0], true=true)
    self.assertEqual(twice, math.inf)

  def test_more_is_better_but_for_lengths(self):
    names = ("exact_answers", "exact_polygons", "area_coverage", "simple_polygons")
    names += ("triangle_coverage", "whole_tours")
    self.assertEqual([measures.sign(name) for name in names], [1] * 6)
    self.assertEqual(measures.sign("tour_ratio"), -1)

  def test_corners_and_lengths(self):
    outputs, batch = _batch([2, 3, 0, -1, -1, -1], [0, -1, -1, -1, -1, -1])
    found = answers.corners(batch["points"], outputs["answer"])
    np.testing.assert_array_equal(found[0, :3], [[1, 0], [1, 1], [1, 0]])
    length = answers.length(batch["points"], outputs["answer"])
    np.testing.assert_allclose(length, [2, 0])

  def test_the_loss_is_of_the_labels(self):
    logits = jnp.zeros((1, 3, 4)).at[0, 0, 2].set(math.log(5.0))
    batch = {"labels": jnp.array([[2, 0, -1]])}
    sums = pointing.totals({"logits": logits}, batch)
    want = -math.log(5 / 8) + math.log(4)
    self.assertAlmostEqual(float(sums["loss"]), want, places=5)
    self.assertEqual((float(sums["hits"]), float(sums["count"])), (2, 2))


if __name__ == "__main__":
  absltest.main()
