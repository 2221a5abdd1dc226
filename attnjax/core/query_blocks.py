"""Functions of all queries and keys, computed in blocks of queries.

Blocks follow each other, and the backward pass recomputes the pairs of a block, so that
neither pass holds the pairs of more than one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_queries(
  function: Callable,
  arrays: Any,
  shape: tuple[int, ...],
  *,
  pairs: int,
  rows: int,
) -> Any:
  """Returns function(first, arrays) of all queries, block by block.

  Args:
    function: the number of the first query and a tree of arrays (B, t, ...) to a tree
      of arrays (B, t, ...).
    arrays: a tree of arrays (B, T, ...); None stays.
    shape: (B, N, T, S).
    pairs: (batch, head, query, key) of a block, at most.
    rows: a block has a multiple of so many queries, once at least.
  """
  B, N, T, S = shape
  size = max(pairs // max(B * N * S, 1) // rows, 1) * rows
  if size >= T:
    return function(0, arrays)
  number = -(-T // size)

  def split(x):
    ends = [(0, 0), (0, number * size - T)] + [(0, 0)] * (x.ndim - 2)
    fill = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
    x = jnp.pad(x, ends, constant_values=fill)
    return jnp.moveaxis(x.reshape(x.shape[0], number, size, *x.shape[2:]), 1, 0)

  def joined(x):
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :T]

  firsts = jnp.arange(number, dtype=jnp.int32) * size
  one = jax.checkpoint(lambda part: function(*part))
  return jax.tree.map(joined, jax.lax.map(one, (firsts, jax.tree.map(split, arrays))))
