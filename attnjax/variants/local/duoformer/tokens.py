"""The lists of tokens that lie under each cell of the coarsest map."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.core.grids.partition import Partition


def scale_tokens(
  features: Sequence[Float[Array, "B ..."]], *, columns_first: Sequence[int] = (2,)
) -> Float[Array, "B P n D"]:
  """Returns a list for each cell of the coarsest map: its tokens of all maps.

  Args:
    features: (B, h m, w m, D) each, the coarsest first, with m = 1; other m are whole
      numbers.
    columns_first: the m whose m x m tokens are listed column by column, as in the
      official code; all others are listed row by row.

  Returns:
    The tokens of the P = h w cells, row by row; n is the sum of all m^2.

  Raises:
    ValueError: if a map is no whole multiple of the coarsest one.
  """
  grid, lists = features[0].shape[1:3], []
  for x in features:
    ratio = x.shape[1] // grid[0]
    if x.ndim != 4 or x.shape[1:3] != (ratio * grid[0], ratio * grid[1]):
      raise ValueError(
        f"a map {x.shape} beside a coarsest one with {grid} cells: its sides must be"
        " the same multiple of them"
      )
    parts = Partition(x.shape[1:3], ratio).split(x)
    lists.append(parts[:, :, _order(ratio, columns_first)])
  return jnp.concatenate(lists, axis=2)


def real_tokens(grid: Sequence[int], sides: Sequence[int]) -> Bool[np.ndarray, "P n"]:
  """Returns which tokens of the lists are not padding.

  Args:
    grid: the sides of the finest map before it is padded.
    sides: m of each map, as in `scale_tokens`, ascending; row by row.
  """
  last, found = sides[-1], []
  for side in sides:
    step = last // side
    coarse = tuple(-(-length // step) for length in grid)
    found.append(Partition(coarse, side).valid())
  return np.concatenate(found, axis=1)


def _order(ratio, columns_first):
  order = np.arange(ratio**2).reshape(ratio, ratio)
  return (order.T if ratio in columns_first else order).ravel()
