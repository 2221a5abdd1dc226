"""Sizes, given for all axes of a grid or for each, and indices from coordinates."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Sizes = int | Sequence[int]


def entries(name: str, value: Sizes, axes: int, least: int | None) -> tuple[int, ...]:
  """Returns one entry for each axis.

  Raises:
    ValueError: if there are other entries, or one is less than `least`.
  """
  found = (value,) * axes if isinstance(value, int) else tuple(value)
  if not 1 <= axes <= 3 or len(found) != axes:
    raise ValueError(f"{name} = {value} on a grid of {axes} axes; one entry for each")
  if least is not None and min(found) < least:
    raise ValueError(f"{name} = {value}; each entry must be at least {least}")
  return found


def check(name: str, x: Any, first: int, shape: Sequence[int]) -> None:
  """Raises ValueError if x has not the axes `shape` from axis `first` on."""
  if x.shape[first : first + len(shape)] != tuple(shape):
    raise ValueError(f"{name} {x.shape} must have the axes {tuple(shape)} after B")


def outer(a, b, join):
  """Combines (W, P) and (w, p) by `join` to (W w, P p)."""
  c = join(a[:, None, :, None], b[None, :, None, :])
  return c.reshape(a.shape[0] * b.shape[0], -1)


def combined(lines, shape) -> np.ndarray:
  """Returns row-major indices from coordinates on each axis, -1 if one is missing."""
  places = np.zeros((1, 1), np.int32)
  for line, length in zip(lines, shape):
    missing = outer(places < 0, line < 0, np.logical_or)
    places = np.where(missing, -1, outer(places * length, line, np.add))
  return places.astype(np.int32)
