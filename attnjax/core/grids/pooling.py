"""Means over the windows of a grid, which padding does not dilute."""

import numpy as np
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.grids.partition import Partition


def means(x: Float[Array, "B ..."], size: int, axes: int = 2) -> Float[Array, "B ..."]:
  """Returns the mean of each window of a grid; those at the border have fewer points.

  Args:
    x: (B, *S, ...) with as many axes S as `axes`.
    size: side of the windows.
    axes: of the grid.
  """
  parts = Partition(x.shape[1 : 1 + axes], size)
  cells = parts.split(x)
  total = cells.astype(accumulator_dtype(x)).sum(axis=2)
  count = np.asarray(parts.valid()).sum(axis=1)
  mean = total / count.reshape(1, -1, *(1,) * (total.ndim - 2))
  return mean.reshape(x.shape[0], *parts.counts, *mean.shape[2:]).astype(x.dtype)
