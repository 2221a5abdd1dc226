"""Gradients by what a score function captures: sums over scores, in its shape.

The size of such a sum's error is not what its terms add up to: rows are rounded apart
from each other, so that their errors add up in quadrature. One number of a whole
problem, a decay's rate, say, would else be allowed to be anything.
"""

import numpy as np

from tests import definition


def summed(found: dict, name: str, shape: tuple[int, ...], place=None) -> dict:
  """The results with one gradient and its size in the shape of what is captured.

  Args:
    found: of `definition.attend`.
    name: of what the function captures.
    shape: of that: (), (N,) or (N, entries).
    place: which entry each score reads, broadcasts to (B, N, T, S).
  """
  rows = _by_row(found[f"d{name}"], shape, place)
  sizes = _by_row(found[f"{definition.SIZE}d{name}"], shape, place)
  size = definition.in_quadrature(sizes, 0)
  return found | {f"d{name}": rows.sum(0), f"{definition.SIZE}d{name}": size}


def _by_row(each, shape, place):
  """(rows, *shape): the sum of each row of scores (B, N, T, S) over its keys."""
  B, N, T, _ = each.shape
  if place is None:
    sums = each.sum(3).swapaxes(1, 2)
    return sums.reshape(-1, N) if shape else sums.reshape(-1)
  rows = np.zeros((B, T, *shape), each.dtype)
  at = np.indices(each.shape)
  np.add.at(rows, (at[0], at[2], at[1], np.broadcast_to(place, each.shape)), each)
  return rows.reshape(B * T, *shape)
