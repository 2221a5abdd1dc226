"""Integer tables of anchors, windows and spans, computed on the host."""

import math

import numpy as np

# An inverse power this near to an integer is that integer.
_EXACT = 1e-9


def stripe(i: int, power: float) -> int:
  """Computes f(i) = floor(i^(1 / power)) exactly: the i-th anchor's distance plus 1."""
  inverse = 1 / power
  if abs(inverse - round(inverse)) < _EXACT:
    return i ** round(inverse)
  return math.floor(i**inverse + _EXACT)


def window_length(window_index: int, power: float = 0.5) -> int:
  """Returns the keys of the window, including the token; 0 for window_index = 0."""
  return stripe(window_index + 1, power) - 1 if window_index else 0


def stripes(length: int, window_index: int, power: float) -> np.ndarray:
  """Computes f(i), int32, for all anchors of a sequence, the nearest first.

  Args:
    length: of the sequence; the bound of f(i).
    window_index: the anchors are i = window_index + 1, window_index + 2, ...
    power: the search power p.
  """
  found, i = [], window_index + 1
  while stripe(i, power) <= length:
    found.append(stripe(i, power))
    i += 1
  return np.array(found, np.int32)


def anchor_positions(t: int, window_index: int, power: float = 0.5) -> list[int]:
  """Returns the positions of the anchors of token t, the nearest first."""
  return [t - int(f) + 1 for f in stripes(t + 1, window_index, power)]


def reaches(length: int, factor: float, power: float) -> np.ndarray:
  """Computes ceil(factor n^power), int32, for n = 0, ..., length.

  The power is taken in float32, as published.
  """
  n = np.arange(length + 1, dtype=np.float32)
  return np.ceil(np.float32(factor) * n ** np.float32(power)).astype(np.int32)
