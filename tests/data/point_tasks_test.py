"""Data sets of points: their answers by other algorithms, and their layout."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import planar, pointing


def _points(n, seed=0):
  return np.random.default_rng([seed, n]).random((n, 2))


class PlanarTest(parameterized.TestCase):
  def test_the_hull_by_hand(self):
    square = np.array([[1, 1], [0, 0], [0.5, 0.5], [1, 0], [0, 1], [0.5, 0.0]])
    np.testing.assert_array_equal(planar.hull(square), [0, 4, 1, 3])

  @parameterized.parameters(3, 7, 40)
  def test_all_points_are_left_of_the_hull(self, n):
    points = _points(n)
    hull = planar.hull(points)
    self.assertEqual(hull[0], min(hull))
    a, b = points[hull], points[np.roll(hull, -1)]
    step, to = (b - a)[:, None], points[None] - a[:, None]
    turn = step[..., 0] * to[..., 1] - step[..., 1] * to[..., 0]
    self.assertGreaterEqual(turn.min(), -1e-12)
    # Corners turn left; every other point is strictly within.
    within = np.delete(turn, hull, axis=1)
    self.assertTrue((within > 0).all())

  @parameterized.parameters(3, 5, 12)
  def test_triangles_have_empty_circles_and_cover_the_hull(self, n):
    points = _points(n, seed=1)
    found = planar.delaunay(points)
    wanted = []
    for triple in itertools.combinations(range(n), 3):
      a, b, c = points[list(triple)]
      middle = np.linalg.solve(
        2 * np.array([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a]
      )
      apart = np.linalg.norm(points - middle, axis=1)
      inside = apart < np.linalg.norm(a - middle) - 1e-12
      if not np.delete(inside, triple).any():
        wanted.append(triple)
    self.assertEqual({tuple(t) for t in found.tolist()}, set(wanted))
    xs = planar.incenters(points[found])[:, 0]
    np.testing.assert_array_equal(xs, np.sort(xs))

  def test_the_incenter_by_hand(self):
    corners = np.array([[[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]]])
    np.testing.assert_allclose(planar.incenters(corners), [[1, 1]])

  @parameterized.parameters(2, 3, 4, 5, 9)
  def test_no_tour_is_shorter(self, n):
    points = _points(n, seed=2)
    tour = planar.tour(points)
    self.assertEqual(sorted(tour), list(range(n)))
    self.assertEqual(tour[0], 0)
    if n > 2:
      self.assertLess(tour[1], tour[-1])
    self.assertAlmostEqual(planar.length(points[tour]), _least_length(points))

  def test_a_tour_of_many_points(self):
    turn = 2 * np.pi * np.array([0, 5, 3, 8, 1, 11, 9, 2, 12, 4, 7, 10, 6]) / 13
    points = np.stack([np.cos(turn), np.sin(turn)], axis=1)  # on a circle
    found = np.round(turn[planar.tour(points)] * 13 / (2 * np.pi)).tolist()
    self.assertIn(found, ([*range(13)], [0, *range(12, 0, -1)]))

  def test_errors_name_the_rule(self):
    with self.assertRaisesRegex(ValueError, "14 points; exact tours have at most 13"):
      planar.tour(_points(14))
    for solve in (planar.hull, planar.delaunay):
      with self.assertRaisesRegex(ValueError, "2 points; it must be at least 3"):
        solve(_points(2))


def _least_length(points):
  """Returns the least length of all closed tours, one after the other."""
  n = len(points)
  apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
  rest = itertools.permutations(range(1, n))
  tours = np.array([(0, *p) for p in rest if n < 3 or p[0] < p[-1]])
  return apart[tours, np.roll(tours, -1, axis=1)].sum(axis=1).min()


_SETS = (
  ("convex_hull", 10, 2, 11, 0, ("exact_polygons", "area_coverage", "simple_polygons")),
  ("delaunay", 5, 2, 16, 3, ("triangle_coverage", "exact_answers")),
  ("shortest_tour", 5, 2, 6, 0, ("tour_ratio", "whole_tours", "exact_answers")),
  ("argsort", 10, 1, 11, 0, ("exact_answers", "accuracy")),
)


class SetsTest(parameterized.TestCase):
  @parameterized.parameters(*_SETS)
  def test_a_task_is_its_description(self, name, most, inputs, steps, corners, metrics):
    task = data.load(name, {"examples": 20, "held_out": 5})
    self.assertEqual(
      (task.name, task.kind, task.shape), (name, "points", (most, inputs))
    )
    self.assertEqual((task.metric, *task.also), metrics)
    sizes = {"inputs": inputs, "symbols": most, "corners": corners}
    self.assertEqual(task.sizes, sizes)
    self.assertEqual([len(task.source(s)) for s in data.SPLITS], [20, 5, 5])
    first, again = (data.load(name, {"examples": 20}).source("train")[3] for _ in "ab")
    other = task.source("test")[3]
    for key, value in first.items():
      np.testing.assert_array_equal(value, again[key])
    self.assertTrue((other["points"] != first["points"]).any())
    for index in range(20):
      self._check(task.source("train")[index], most, inputs, steps)

  def _check(self, example, most, inputs, steps):
    points, valid, labels = (example[n] for n in ("points", "valid", "labels"))
    self.assertEqual((points.shape, points.dtype), ((most, inputs), np.float32))
    self.assertEqual((valid.shape, valid.dtype), ((most,), bool))
    self.assertEqual((labels.shape, labels.dtype), ((steps,), np.int32))
    n = valid.sum()
    self.assertBetween(n, 5, most)
    self.assertTrue(valid[:n].all())
    self.assertFalse(points[n:].any())
    end = int((labels > 0).sum())
    self.assertEqual(labels[end], 0)
    self.assertTrue((labels[end + 1 :] == -1).all())
    self.assertBetween(labels[:end].min(), 1, n)
    self.assertLessEqual(labels.max(), n)

  def test_labels_are_the_answers_from_one_on(self):
    for name, solve in (
      ("convex_hull", planar.hull),
      ("delaunay", planar.delaunay),
      ("shortest_tour", planar.tour),
      ("argsort", lambda x: np.argsort(x[:, 0])),
    ):
      one = data.load(name, {"least": 5, "most": 5}).source("train")[0]
      want = solve(one["points"].astype(np.float64)).ravel() + 1
      np.testing.assert_array_equal(one["labels"][one["labels"] > 0], want)

  def test_numbers_of_points_are_as_likely(self):
    make = np.random.default_rng(0)
    how = {"least": 3, "most": 6, "steps": 7}
    sizes = [
      pointing.example(make, planar.hull, **how)["valid"].sum() for _ in range(400)
    ]
    np.testing.assert_allclose(np.bincount(sizes)[3:] / 400, 0.25, atol=0.06)

  @parameterized.parameters(
    ("convex_hull", {"least": 2}, "least = 2; it must be at least 3"),
    ("delaunay", {"least": 6, "most": 5}, "most = 5; it must be at least 6"),
    ("shortest_tour", {"most": 14}, "most = 14; tours are exact up to 13 points"),
    ("argsort", {"least": 0}, "least = 0; it must be at least 1"),
  )
  def test_what_does_not_fit(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load(name, options)


if __name__ == "__main__":
  absltest.main()
