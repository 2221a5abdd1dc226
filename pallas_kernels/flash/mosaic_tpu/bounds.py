"""Scores that a program bounds, such as those under a soft cap: no maximum is needed.

Where |score| <= 52, exp(score) itself is a normal number, and so are its sums with
values: exp(52) = 4e22 leaves sums of values room up to 8e15, exp(-52) values down to
5e-16. 52 admits Gemma 2's cap of 50.
"""

import numpy as np

from attnjax.core import interval_arithmetic
from attnjax.core.scores import Program

LIMIT = 52.0


def bounded(program: Program, T: int, S: int) -> bool:
  """Returns whether |score| <= LIMIT for T queries and S keys, whatever the arrays."""
  function = program.score
  if function is None:
    return False
  given = [(-np.inf, np.inf), (0, T - 1), (0, S - 1)]
  given += [_any(program.operands[number].dtype) for number in function.operands]
  dtypes = [v.aval.dtype for v in function.jaxpr.jaxpr.invars]
  with np.errstate(invalid="ignore", over="ignore"):
    pairs = [tuple(map(_wide(d).type, pair)) for pair, d in zip(given, dtypes)]
    low, high = interval_arithmetic.bounds(function.jaxpr, pairs, np)
  return bool(max(-low, high) <= LIMIT)


def _wide(dtype) -> np.dtype:
  """Returns the dtype that bounds are computed in."""
  return np.dtype(np.int64 if np.issubdtype(dtype, np.integer) else np.float64)


def _any(dtype) -> tuple:
  """Returns the bounds of an operand that may hold any value of its dtype."""
  if np.issubdtype(dtype, np.integer):
    limits = np.iinfo(dtype)
    return limits.min, limits.max
  return -np.inf, np.inf
