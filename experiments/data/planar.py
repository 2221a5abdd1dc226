"""Planar problems with exact answers: convex hulls, Delaunay triangles, short tours.

Points are (n, 2), and answers are indices from 0. Each has one canonical form, without
which a model would be asked to guess which of equal answers is meant.
"""

import numpy as np

MOST = 13  # points of a tour, whose search has n^2 2^n steps


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

  Michael Held, Richard Karp. A Dynamic Programming Approach to Sequencing Problems.
  1962: the shortest paths from point 0 through each set of others to each of these.

  Raises:
    ValueError: if there are fewer than 2 or more than MOST points.
  """
  _least(points, 2)
  if len(points) > MOST:
    raise ValueError(f"{len(points)} points; exact tours have at most {MOST}")
  apart = _apart(points[:, None], points[None])
  home, between = apart[0, 1:], apart[1:, 1:]
  paths = _paths(home, between)
  found, left = [int(np.argmin(paths[-1] + home))], len(paths) - 1
  while left := left ^ 1 << found[-1]:
    found.append(int(np.argmin(paths[left] + between[found[-1]])))
  order = np.array([0, *(1 + i for i in found)])
  return order if order[1] <= order[-1] else np.roll(order[::-1], 1)


def _paths(home: np.ndarray, between: np.ndarray) -> np.ndarray:
  """Returns the lengths (2^n, n) of the shortest paths through sets to their ends.

  Args:
    home: (n,), distances from where paths begin.
    between: (n, n), distances of the others, the n bits of a set.
  """
  n = len(home)
  found = np.full((2**n, n), np.inf)
  found[2 ** np.arange(n), np.arange(n)] = home
  sets = np.arange(2**n)
  inside = sets[:, None] >> np.arange(n) & 1
  for size in range(2, n + 1):
    for end in range(n):
      own = sets[(inside.sum(axis=1) == size) & (inside[:, end] == 1)]
      before = found[own ^ 1 << end]
      found[own, end] = (before + between[end]).min(axis=1)
  return found


def length(points: np.ndarray) -> float:
  """Returns the length of a closed tour through points in their order."""
  return float(_apart(points, np.roll(points, -1, axis=0)).sum())


def _turn(a, b, c) -> float:
  """Returns twice the area of a triangle, positive if it is counter-clockwise."""
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _apart(a, b):
  return np.sqrt(np.square(a - b).sum(-1))


def _least(points, least):
  if len(points) < least:
    raise ValueError(f"{len(points)} points; it must be at least {least}")
