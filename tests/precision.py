"""How exact an implementation must be: by what the plain formula gives in its type.

The error against float64 may be twice that of the plain formula computed in the same
type, for gradients three times, and a few units in the last place of the largest
element more, where the plain formula happens to be exact. A gradient is measured by
what its terms add up to without their signs: where only one key is seen, say, they
cancel, and what is left is the rounding of the output that a fused form reads. Over
rows, whose roundings have nothing to do with each other, they add up in quadrature.
These sizes stand beside the results under `SIZE` and the result's name.
"""

from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from tests.definition import SIZE

FORWARD, BACKWARD = 2.0, 3.0
# In units in the last place. Sums in another order differ by a few in float32, where
# the plain formula is as exact; 16-bit results are rounded once.
LAST_PLACES = {"float64": 64.0, "float32": 64.0, "bfloat16": 0.5, "float16": 0.5}


WIDE = ("lse",)  # results that are float32 whatever the inputs are


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
    plain: the same by the plain formula in `dtype`; what is WIDE in float32.
    dtype: a key of LAST_PLACES.
  """
  found = {}
  for name, exact in want.items():
    if name.startswith(SIZE):
      continue
    value, rough = (np.asarray(x[name], np.float64) for x in (got, plain))
    exact = np.asarray(exact, np.float64)
    largest = np.abs(exact, where=np.isfinite(exact), out=np.zeros(exact.shape))
    size = np.maximum(1.0, largest) if name == "lse" else largest.max(initial=0.0)
    if SIZE + name in want:
      size = max(size, np.abs(want[SIZE + name]).max(initial=0.0))
    error, other = _error(value, exact, size), _error(rough, exact, size)
    other = other if np.isfinite(other) else 0.0
    kind = "float32" if name in WIDE and dtype != "float64" else dtype
    found[name] = error / allowed(name, other, kind)
  return found


def worst(got: Any, want: Any, plain: Any, name: str = "out") -> float:
  """The largest excess of the leaves of trees, each measured in its own type.

  Args:
    got: of arrays.
    want: the same, more exact.
    plain: the same by the plain formula from the inputs that `got` is of.
    name: of all the leaves, as in `excess`.
  """
  parts = []
  for each in zip(*map(jax.tree.leaves, (got, want, plain)), strict=True):
    dtype = np.asarray(each[0]).dtype.name
    parts.append(excess(*({name: np.asarray(x, np.float64)} for x in each), dtype))
  return max(part[name] for part in parts)


def allowed(name: str, plain: float, dtype: str) -> float:
  """The error that a result may have, as a part of its largest element.

  Args:
    name: of the result; that of a gradient begins with "d".
    plain: the error of the plain formula.
    dtype: a key of LAST_PLACES.
  """
  factor = BACKWARD if name.startswith("d") else FORWARD
  unit = float(ml_dtypes.finfo(dtype).eps)
  return factor * plain + LAST_PLACES[dtype] * unit


def _error(value, exact, size) -> float:
  """The largest error in units of `size`; infinite where values are not finite."""
  with np.errstate(all="ignore"):
    gap = np.where(value == exact, 0.0, np.abs(value - exact) / size)
  return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
