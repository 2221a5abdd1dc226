"""Positions, lengths and segment ids of queries and keys, from a user's arguments."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.masks import And, Dense, Lengths, Mask
from attnjax.core.masks.integers import MOST, clipped, integers, known, outside
from attnjax.core.scores import Scores


def positioned(shape, lead, queries, keys, aligned: int, **given) -> tuple[Scores, Any]:
  """Returns (scores with positions of queries and keys, whether one is no int32)."""
  B, _, T, S = shape
  aligned = aligned if queries is None else 0
  first, query, one = _positions("query_positions", queries, lead, (B, T), aligned)
  start, key, two = _positions("key_positions", keys, lead, (B, S), 0)
  scores = Scores(
    query_positions=query, key_positions=key, start=(first, start), **given
  )
  lost = one if two is False else two if one is False else one | two
  return scores, lost


def _positions(name, given, lead, size, default):
  """Returns (start, None, lost) of consecutive positions, else (0, positions, lost).

  Positions have the shape (B|1, length); `lost` says whether one of them is no int32.
  """
  B, length = size
  if given is None:
    return default, None, False
  value = integers(name, given)
  if isinstance(value, int):
    if isinstance(length, int):
      known(name, value)
      known(f"the end of {name}", value + length)
    return value, None, False
  shape = value.shape
  if shape in ((), (1,), (B,), lead):
    return 0, *_counted(name, value.reshape(-1, 1), length)
  if shape not in ((length,), (1, length), (B, length), (*lead, length)):
    raise ValueError(
      f"{name} has the shape {shape}; it must be (), ({B},), ({length},) or"
      f" ({B}|1, {length})"
    )
  rows = (
    value[None] if value.ndim == 1 else value.reshape(math.prod(shape[:-1]), length)
  )
  return 0, known(name, rows), outside(value)


def _counted(name, first, length):
  """Returns (first + 0, 1, 2, ... as int32, whether a traced one is no int32)."""
  if isinstance(first, np.ndarray):
    count = first.astype(np.int64) + np.arange(length)
    return known(name, count), False
  lost = outside(first)
  most = MOST - length if isinstance(length, int) else MOST
  late = (clipped(first) > most).any()
  count = jnp.minimum(clipped(first), most) + jnp.arange(length, dtype=jnp.int32)[None]
  return count, late if lost is False else late | lost


def rows(given, lead, length):
  """Returns the ids, with several batch axes (*B, T) as (B, T); or None."""
  if given is None or len(lead) < 2:
    return given
  ids = integers("segment_ids", given)
  whole = (*lead, length)
  return ids.reshape(math.prod(lead), length) if ids.shape == whole else ids


def lengths(what: Scores, shape, lead, queries, keys) -> Mask:
  """Returns the mask of per-example numbers of queries and of keys, int (B,)."""
  B, _, *sizes = shape
  parts: list[Mask] = []
  for axis, (name, given) in enumerate(
    (("query_seq_lengths", queries), ("key_value_seq_lengths", keys))
  ):
    if given is None:
      continue
    number = integers(name, given)
    if np.shape(number) not in ((), (B,), lead):
      raise ValueError(
        f"{name} is {number.dtype} {number.shape}; it must be integers, ({B},)"
      )
    number, size = _within(number, sizes[axis]), sizes[axis]
    if (what.query_positions, what.key_positions)[axis] is None:
      last = number + what.start[axis]
      parts.append(Lengths(queries=last) if axis == 0 else Lengths(keys=last))
    else:  # lengths count tokens, whatever their positions are
      inside = jnp.arange(size)[None] < jnp.reshape(jnp.asarray(number), (-1, 1))
      ends = (slice(None), None, slice(None), None)
      parts.append(Dense(inside[ends] if axis == 0 else inside[:, None, None, :]))
  return And(tuple(parts))


def _within(number, size):
  """Clips a length, or (B,) int32 ones, to `size`, so that no sum overflows."""
  number = clipped(number)
  if isinstance(number, int):
    return min(number, size)
  xp: Any = jnp if isinstance(number, jax.Array) else np
  return xp.minimum(number, size).astype(np.int32).reshape(-1)
