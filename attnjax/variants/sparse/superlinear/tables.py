"""Where anchors, windows and spans lie: tables of integers, made on the host."""

import math

import numpy as np

# An inverse power this near to an integer is that integer.
_EXACT = 1e-9


def stripe(i: int, power: float) -> int:
  """f(i) = floor(i^(1 / power)), exactly: the distance of the i-th anchor, plus 1."""
  inverse = 1 / power
  if abs(inverse - round(inverse)) < _EXACT:
    return i ** round(inverse)
  return math.floor(i**inverse + _EXACT)


def window_length(window_index: int, power: float = 0.5) -> int:
  """Keys of the local window, the token among them; 0 for window_index = 0."""
  return stripe(window_index + 1, power) - 1 if window_index else 0


def stripes(length: int, window_index: int, power: float) -> np.ndarray:
  """f(i), int32, for all anchors of a sequence, the nearest first.

  Args:
    length: of the sequence; f(i) <= length.
    window_index: the anchors are i = window_index + 1, window_index + 2, ...
    power: of the search.
  """
  found, i = [], window_index + 1
  while stripe(i, power) <= length:
    found.append(stripe(i, power))
    i += 1
  return np.array(found, np.int32)


def anchor_positions(t: int, window_index: int, power: float = 0.5) -> list[int]:
  """The anchors of the token t, the nearest first."""
  return [t - int(f) + 1 for f in stripes(t + 1, window_index, power)]


def reaches(length: int, factor: float, power: float) -> np.ndarray:
  """ceil(factor n^power), int32, for n = 0, ..., length, in float32 as published."""
  n = np.arange(length + 1, dtype=np.float32)
  return np.ceil(np.float32(factor) * n ** np.float32(power)).astype(np.int32)
