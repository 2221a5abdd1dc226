"""How exact an implementation must be: by what the plain formula gives in its type.

The error against float64 may be twice that of the plain formula computed in the same
type, for gradients three times, and a few units in the last place of the largest
element more, where the plain formula happens to be exact.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

FORWARD, BACKWARD = 2.0, 3.0
# In units in the last place. Sums in another order differ by a few in float32, where
# the plain formula is as exact; 16-bit results are rounded once.
LAST_PLACES = {"float64": 64.0, "float32": 64.0, "bfloat16": 1.0, "float16": 1.0}


def excess(
  got: Mapping[str, np.ndarray],
  want: Mapping[str, np.ndarray],
  plain: Mapping[str, np.ndarray],
  dtype: str,
) -> dict[str, float]:
  """The error of each result as a part of what it may be: at most 1 is right.

  Args:
    got: name to result; the names of gradients begin with "d".
    want: the same in float64; where it is infinite, `got` must be as well.
    plain: the same by the plain formula in `dtype`.
    dtype: a key of LAST_PLACES.
  """
  found = {}
  unit = float(ml_dtypes.finfo(dtype).eps)
  for name, exact in want.items():
    value, rough = (np.asarray(x[name], np.float64) for x in (got, plain))
    exact = np.asarray(exact, np.float64)
    largest = np.abs(exact, where=np.isfinite(exact), out=np.zeros(exact.shape))
    size = np.maximum(1.0, largest) if name == "lse" else largest.max(initial=0.0)
    factor = BACKWARD if name.startswith("d") else FORWARD
    error, other = _error(value, exact, size), _error(rough, exact, size)
    other = other if np.isfinite(other) else 0.0
    found[name] = error / (factor * other + LAST_PLACES[dtype] * unit)
  return found


def _error(value, exact, size) -> float:
  """The largest error in units of `size`; infinite where values are not finite."""
  with np.errstate(all="ignore"):
    gap = np.where(value == exact, 0.0, np.abs(value - exact) / size)
  return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
