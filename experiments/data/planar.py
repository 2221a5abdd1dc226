"""Planar problems with exact answers: convex hulls, Delaunay triangles, short tours.

Points are (n, 2), and answers are indices from 0. Each has one canonical form, without
which a model would be asked to guess which of equal answers is meant.
"""

import functools
import itertools

import numpy as np

MOST = 9  # points of a tour: (n - 1)! / 2 of them are compared


def hull(points: np.ndarray) -> np.ndarray:
  """Returns the corners of the convex hull, counter-clockwise from the least index.

  A. M. Andrew's monotone chain, 1979. Points on an edge are no corners.

  Raises:
    ValueError: if there are fewer than 3 points.
  """
  _least(points, 3)
  order = np.lexsort((points[:, 1], points[:, 0]))
  corners: list[int] = []
  for chain in (order, order[::-1]):
    own: list[int] = []
    for i in chain:
      while len(own) > 1 and _turn(*points[[own[-2], own[-1], i]]) <= 0:
        own.pop()
      own.append(int(i))
    corners += own[:-1]  # the last one begins the other chain
  return np.roll(corners, -int(np.argmin(corners)))


def delaunay(points: np.ndarray) -> np.ndarray:
  """Returns the triangles (k, 3) of the Delaunay triangulation.

  The indices of a triangle rise; triangles are ordered by their incenters, first by x.

  Raises:
    ValueError: if there are fewer than 3 points.
  """
  _least(points, 3)
  from scipy.spatial import Delaunay  # jax needs scipy, too

  found = np.sort(Delaunay(points).simplices, axis=1)
  centers = incenters(points[found])
  return found[np.lexsort((centers[:, 1], centers[:, 0]))]


def incenters(corners: np.ndarray) -> np.ndarray:
  """Returns the centres (k, 2) of the inscribed circles of triangles (k, 3, 2)."""
  a, b, c = np.moveaxis(corners, 1, 0)
  sides = np.stack([_apart(b, c), _apart(a, c), _apart(a, b)], axis=1)[..., None]
  return (sides * corners).sum(1) / sides.sum(1)


def tour(points: np.ndarray) -> np.ndarray:
  """Returns the shortest closed tour, from point 0, its second point before its last.

  All tours are compared.

  Raises:
    ValueError: if there are fewer than 2 or more than 9 points.
  """
  n = len(points)
  _least(points, 2)
  if n > MOST:
    raise ValueError(f"{n} points; at most {MOST} have few enough tours")
  tours = _tours(n)
  apart = _apart(points[:, None], points[None])
  lengths = apart[tours, np.roll(tours, -1, axis=1)].sum(axis=1)
  return tours[lengths.argmin()]


def length(points: np.ndarray) -> float:
  """Returns the length of a closed tour through points in their order."""
  return float(_apart(points, np.roll(points, -1, axis=0)).sum())


@functools.cache
def _tours(n: int) -> np.ndarray:
  """Returns all tours (k, n) in their canonical form."""
  rest = itertools.permutations(range(1, n))
  return np.array([(0, *p) for p in rest if n < 3 or p[0] < p[-1]])


def _turn(a, b, c) -> float:
  """Returns twice the area of a triangle, positive if it is counter-clockwise."""
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _apart(a, b):
  return np.sqrt(np.square(a - b).sum(-1))


def _least(points, least):
  if len(points) < least:
    raise ValueError(f"{len(points)} points; it must be at least {least}")
