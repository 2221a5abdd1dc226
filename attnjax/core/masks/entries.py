"""The entries of block lists, from the kind of each block.

A list names the full blocks of its row first, then the partial ones, both in order; a
prefix sum over each kind tells where a block stands in it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EMPTY, PARTIAL, FULL = 0, 1, 2
# Bytes from which lists are made on the device instead of being constants.
_LARGE = 16 << 20


def lengths(kind: Any, limit: np.ndarray | None, most: Sequence[int]) -> Any:
  """Returns (longest list, all lists' visits) at most, of query and of key blocks.

  Args:
    kind: of each block; EMPTY wherever `limit` is.
    limit: the kinds by a mask's static parts; None if it has none.
    most: further limits of the lists of query blocks.
  """
  if not isinstance(kind, jax.Array):
    return _longest(kind), _longest(kind.swapaxes(2, 3))
  queries, keys = kind.shape[2:]
  longest = min([keys, *most])
  limits = [(longest, longest * queries), (queries, queries * keys)]
  if limit is not None:
    known = _longest(limit), _longest(limit.swapaxes(2, 3))
    limits = [tuple(map(min, *pair)) for pair in zip(limits, known)]
  return limits


def _longest(kind: np.ndarray) -> tuple[int, int]:
  """Returns (the longest list, the visits of all lists of a batch entry and head)."""
  count = np.maximum((kind != EMPTY).sum(axis=-1), 1)
  return int(count.max(initial=1)), int(count.sum(axis=-1).max(initial=1))


def lists(kind: Any, most: int) -> tuple[Any, Any, Any]:
  """Returns (index, full, count) of the block lists of `kind`.

  Args:
    kind: EMPTY, PARTIAL or FULL, (R_b, R_n, rows, columns), of NumPy or JAX.
    most: the length of the lists; no row has more blocks.
  """
  full = (kind == FULL).sum(axis=-1, dtype=np.int32)
  count = (kind != EMPTY).sum(axis=-1, dtype=np.int32)
  if isinstance(kind, jax.Array):
    return _sorted(kind, most, count), full, count
  if 4 * full.size * most > _LARGE:
    ends = _ends(kind, full, count)
    if ends is not None:
      return _from_ends(ends, most, full, count), full, count
  return _filled(kind, most, full, count), full, count


def _sorted(kind: jax.Array, most: int, count) -> jax.Array:
  """Computes the index of traced kinds without a sort: there are only three kinds."""
  columns = kind.shape[-1]
  full, partial = (
    jnp.cumsum(kind == which, axis=-1, dtype=np.int32) for which in (FULL, PARTIAL)
  )
  place = jnp.where(kind == FULL, full, full[..., -1:] + partial) - 1
  place = jnp.where(kind == EMPTY, columns, place)  # nowhere

  def put(place):
    numbers = jnp.arange(columns, dtype=np.int32)
    blank = jnp.zeros(most, np.int32)
    return blank.at[place].set(numbers, mode="drop", unique_indices=True)

  index = jax.vmap(jax.vmap(jax.vmap(put)))(place)
  last = jnp.clip(count - 1, 0, None)[..., None]
  return jnp.take_along_axis(index, jnp.minimum(jnp.arange(most), last), axis=-1)


def _filled(kind: np.ndarray, most: int, full, count) -> np.ndarray:
  lead, columns = kind.shape[:-1], kind.shape[-1]
  rows = kind.reshape(-1, columns)
  index = np.zeros((len(rows), most), np.int32)
  before = np.zeros(len(rows), np.int64)
  for which, number in ((FULL, full.ravel()), (PARTIAL, (count - full).ravel())):
    row, column = np.nonzero(rows == which)
    first = np.cumsum(number, dtype=np.int64) - number
    index[row, np.arange(len(row)) - first[row] + before[row]] = column
    before += number
  last = np.maximum(before - 1, 0)[:, None]
  place = np.minimum(np.arange(most), last)
  return np.take_along_axis(index, place, axis=-1).reshape(*lead, most)


def _ends(kind: np.ndarray, full, count):
  """Returns (first block, first full block, end of the full ones) of each row, or None.

  None stands for rows with a hole, or with partial blocks among the full ones.
  """
  first, last = _span(kind != EMPTY)
  inner, outer = _span(kind == FULL)
  inner, outer = (np.where(full > 0, x, last) for x in (inner, outer))
  whole = (last - first == count).all() and (outer - inner == full).all()
  return (first, inner, outer) if whole else None


def _span(some: np.ndarray):
  found = some.any(axis=-1)
  first, last = some.argmax(axis=-1), some.shape[-1] - some[..., ::-1].argmax(axis=-1)
  return (np.where(found, x, 0).astype(np.int32) for x in (first, last))


def _from_ends(ends, most: int, full, count) -> jax.Array:
  """Computes the index on the device, by arithmetic on a few integers a row."""
  first, inner, outer = (jnp.asarray(x)[..., None] for x in ends)
  last = jnp.clip(jnp.asarray(count) - 1, 0, None)[..., None]
  m = jnp.minimum(jnp.arange(most, dtype=np.int32), last)
  rest = m - jnp.asarray(full)[..., None]
  partial = first + rest + jnp.where(rest < inner - first, 0, outer - inner)
  return jnp.where(rest < 0, inner + m, partial)
