"""Matrices over all pairs of two lists, a tile at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def tiled(
  score: Callable[[Any, Any], Float[Array, "Q I"]], rows: Any, columns: Any, tile: int
) -> Float[Array, "Q I"]:
  """Computes a matrix tile by tile, in the backward pass again.

  Memory beside the matrix is that of one tile. The last tiles repeat the last row and
  column, whose scores are cut off.

  Args:
    score: (some rows, some columns) -> (Q, I), where no pair depends on another.
    rows: a pytree of arrays with the first axis Q.
    columns: a pytree of arrays with the first axis I.
    tile: the side of a tile; 0 computes all at once.

  Raises:
    ValueError: if the tile is negative.
  """
  if tile < 0:
    raise ValueError(f"tile = {tile}; it must be at least 0")
  Q, I = (jax.tree.leaves(x)[0].shape[0] for x in (rows, columns))
  if not tile or not Q or not I or max(Q, I) <= tile:
    return score(rows, columns)
  rows, columns = _cut(rows, Q, tile), _cut(columns, I, tile)
  one = jax.checkpoint(score)
  found = jax.lax.map(lambda r: jax.lax.map(lambda c: one(r, c), columns), rows)
  found = found.swapaxes(1, 2)  # (row tiles, rows, column tiles, columns)
  return found.reshape(found.shape[0] * found.shape[1], -1)[:Q, :I]


def _cut(x: Any, count: int, tile: int) -> Any:
  """Returns (tiles, side, ...) of every array; the last row is repeated."""
  side = min(tile, count)
  places = jnp.minimum(jnp.arange(-(-count // side) * side), count - 1)
  return jax.tree.map(lambda leaf: leaf[places].reshape(-1, side, *leaf.shape[1:]), x)
