"""The relative terms as a bias of the softmax engine, for some queries at a time.

Where all pairs of a problem are many, blocks of queries follow each other, and the
backward pass recomputes each block's terms: neither ever holds all of them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax import attention
from attnjax.core import masks, relative
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores

PAIRS = 2**24  # (batch, head, query, key) of a block, at most
ROWS = 128  # a block has a multiple of so many queries


def attend(q, k, v, u, w, rel_k, rel_b, *, scale, impl, seeds, rate, **seen):
  """Computes (out, lse); the arguments are those of `rcmha.attend`, `offset` given."""
  (B, T, N, _), S = q.shape, k.shape[1]
  size = T if rel_k is None and rel_b is None else _rows(B, N, T, S)
  number = -(-T // size)
  tables = _tables(w, rel_k, rel_b, seen, number * size, S)
  of_keys = None
  if u is not None:
    u, keys = u.astype(accumulator_dtype(k)), _clean(k).astype(accumulator_dtype(k))
    of_keys = scale * jnp.einsum("nh,bsnh->bns", u, keys)[:, :, None]

  def block(first, q, ids, positions, mask):
    bias = of_keys
    if any(x is not None for x in tables):
      own = tables
      if number > 1 and positions is None:
        start = (number - 1) * size - first
        own = [_cut(x, start, size + S - 1) for x in tables]
      terms = scale * _terms(_clean(q), own, positions, seen["kv_positions"])
      bias = terms if bias is None else terms + bias
    what = masks.conjunction(
      (B, N, size, S), True, seen["offset"], ids, seen["kv_segment_ids"], mask
    )
    places = None if number == 1 else (first + jnp.arange(size, dtype=jnp.int32))[None]
    what = Scores(what, places, bias=bias, seeds=seeds, rate=rate)
    return attention.attend(q, k, v, what, scale=scale, impl=impl)

  given = q, seen["segment_ids"], seen["positions"], seen["mask"]
  if seen["kv_segment_ids"] is None:
    seen["kv_segment_ids"] = seen["segment_ids"]
  if number == 1:
    return block(0, *given)
  parts = [_split(x, axis, size, number) for x, axis in zip(given, (1, 1, 1, 2))]
  whole_rows = given[3] is not None and given[3].shape[2] == 1
  if whole_rows:
    parts[3] = None
  firsts = jnp.arange(number, dtype=jnp.int32) * size

  def one(part):
    first, q, ids, positions, mask = part
    return block(first, q, ids, positions, given[3] if whole_rows else mask)

  out, lse = jax.lax.map(jax.checkpoint(one), (firsts, *parts))
  return _joined(out, T), _joined(lse, T)


def _rows(B: int, N: int, T: int, S: int) -> int:
  """Returns the number of queries of a block."""
  size = max(PAIRS // max(B * N * S, 1) // ROWS, 1) * ROWS
  return T if size >= T else size


def _tables(w, rel_k, rel_b, seen, T, S) -> list[Any]:
  """Returns the vectors and biases of all distances, with w . rel_k in the biases.

  Without positions they are the rows for T queries and S keys.
  """
  if w is not None and rel_k is not None:
    dtype = accumulator_dtype(rel_k)
    of_w = jnp.einsum("nh,rnh->rn", w.astype(dtype), rel_k.astype(dtype))
    rel_b = of_w if rel_b is None else rel_b + of_w
  if seen["positions"] is not None:
    return [rel_k, rel_b]
  return [
    None if x is None else relative.rows(x, seen["offset"], T, S)
    for x in (rel_k, rel_b)
  ]


def _terms(q, tables, positions, kv_positions):
  table, bias = tables
  if positions is None:
    return relative.terms(q, table, bias)
  distance = positions[:, :, None] - kv_positions[:, None, :]
  return relative.terms_at(q, table, bias, distance)


def _clean(x):
  """Replaces NaN and infinity by 0: the engine itself finds them in q, k and v."""
  return jnp.where(jnp.isfinite(x), x, 0)


def _cut(x, start, size):
  return None if x is None else jax.lax.dynamic_slice_in_dim(x, start, size)


def _split(x, axis: int, size: int, number: int) -> Any:
  """Returns blocks of x along an axis as the first axis, the last one padded by -1."""
  if x is None or x.shape[axis] == 1:
    return x
  ends = [(0, 0)] * x.ndim
  ends[axis] = 0, number * size - x.shape[axis]
  fill = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
  x = jnp.pad(x, ends, constant_values=fill)
  x = x.reshape(*x.shape[:axis], number, size, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def _joined(x, T: int):
  """Returns (number, B, size, ...) as (B, T, ...)."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :T]
