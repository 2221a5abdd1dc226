"""The number of key tiles that a fused kernel visits: a bound on its speed-up.

Ali Hassani et al. Generalized Neighborhood Attention. arXiv:2504.16922 (NATTENSim).

A tile of queries with the first and last coordinates i0, i1 on an axis visits

  ceil(b(i1) / t) - floor(a(i0) / t)     static: tiles of t keys lie at multiples of t
  ceil((b(i1) - a(i0)) / t)              dynamic: tiles begin at the first window

tiles of keys on that axis, and the product over the axes in all. A kernel whose time
is proportional to its tiles is faster than dense attention by at most dense / visited;
the number of operations falls by prod L / prod w; the gap is masked work.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from attnjax.core.grids import neighborhood
from attnjax.variants.local.neighborhood import attention


@dataclasses.dataclass(frozen=True)
class Visits:
  """The numbers of tiles of keys, summed over the tiles of queries.

  Attributes:
    visited: with the windows.
    dense: with dense attention in the same tiles.
    operations: multiplications of dense attention by those of full windows.
  """

  visited: int
  dense: int
  operations: float

  @property
  def speedup(self) -> float:
    """Returns the greatest factor by which the windows make such a kernel faster."""
    return self.dense / self.visited


def visits(
  grid: Sequence[int],
  *,
  window: int | Sequence[int],
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  causal: bool | Sequence[bool] = False,
  query_tile: Sequence[int],
  key_tile: Sequence[int],
  dynamic: bool = False,
) -> Visits:
  """Returns the numbers of tiles on a grid; windows as in `attend`.

  Args:
    grid: tokens on each axis.
    window: as in `attend`.
    stride: as in `attend`.
    dilation: as in `attend`; every dilation group is cut in tiles separately.
    causal: as in `attend`.
    query_tile: queries of a tile on each axis; or one number on a grid of several
      axes: runs of tokens in row-major order, with dilation 1 and static tiles.
    key_tile: keys of a tile on each axis, or one number, like query_tile.
    dynamic: whether tiles of keys begin where the first window does.

  Raises:
    ValueError: if windows or tiles do not fit the grid.
  """
  axes = attention.broadcast(len(grid), window, stride, dilation, causal)
  attention.fits(grid, axes)
  tiles = {len(query_tile), len(key_tile)}
  operations = math.prod(grid) / math.prod(a.window for a in axes)
  if tiles == {len(grid)}:
    lines = [
      neighborhood.visits(length, *axis, query=q, key=k, dynamic=dynamic)
      for length, axis, q, k in zip(grid, axes, query_tile, key_tile)
    ]
    visited, dense = (math.prod(column) for column in zip(*lines))
  elif tiles == {1} and not dynamic and all(a.dilation == 1 for a in axes):
    visited, dense = _flattened(grid, axes, query_tile[0], key_tile[0])
  else:
    raise ValueError(
      f"query_tile = {query_tile} and key_tile = {key_tile} need one entry for each of"
      f" {len(grid)} axes, or one in all with static tiles and without dilation"
    )
  return Visits(visited, dense, operations)


def _flattened(grid, axes, query: int, key: int):
  """Returns (visited, dense): runs of keys that a query of each run sees; all pairs."""
  rows = []
  for length, axis in zip(grid, axes):
    i = np.arange(length)
    low, high = neighborhood.bounds(i, length, axis.window, axis.stride, axis.causal)
    rows.append((low[:, None] <= i) & (i < high[:, None]))
  total, visited = math.prod(grid), 0
  starts = range(0, total, query)
  for start in starts:
    place = np.unravel_index(np.arange(start, min(start + query, total)), grid)
    seen = np.ones((place[0].size, 1), np.float32)
    *others, last = (row[p].astype(np.float32) for row, p in zip(rows, place))
    for other in others:
      seen = (seen[:, :, None] * other[:, None, :]).reshape(seen.shape[0], -1)
    keys = np.flatnonzero((seen.T @ last).ravel())
    visited += np.unique(keys // key).size
  return visited, len(starts) * -(-total // key)


def counted(seen: np.ndarray, query: int, key: int) -> int:
  """Returns the number of tiles of a dense mask (T, T) with any visible key.

  `visits` must find this number.
  """
  total = 0
  for t, s in itertools.product(
    range(0, len(seen), query), range(0, seen.shape[1], key)
  ):
    total += bool(seen[t : t + query, s : s + key].any())
  return total
