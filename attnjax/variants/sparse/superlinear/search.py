"""Span search: every query scores its anchors and keeps the best of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import devices, masks, select
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import linear
from attnjax.variants.sparse.superlinear import tables


class Geometry(NamedTuple):
  """The static options of the search and of the spans; see `attend`."""

  top: int
  window_index: int
  backward: float
  forward: float
  search_power: float
  span_power: float

  @property
  def window(self) -> int:
    """Returns the number of keys of the local window."""
    return tables.window_length(self.window_index, self.search_power)


class Spans(NamedTuple):
  """The spans of each query, (B, T, N, top); -1 where there is none.

  Attributes:
    start: the first key of a span.
    anchor: the key that was scored, in descending order of the scores.
    end: the last key of a span.
    back: (B, T), how far a span reaches back from its anchor.
  """

  start: Any
  anchor: Any
  end: Any
  back: Any


class Rows(NamedTuple):
  """The documents of keys (B, S) and queries (B, T), -1 at padding.

  begin (B, T) is the first key of the query's document, now (T,) the query's place.
  """

  keys: Any
  queries: Any
  begin: Any
  now: Any


def rows(segment_ids: Int[Array, "B S"], T: int, offset: Any) -> Rows:
  """Returns the documents (runs of equal ids) of the keys and of T queries."""
  filled, real = linear.spans(segment_ids)
  runs = masks.documents(filled)
  index = jnp.arange(runs.shape[1])
  fresh = jnp.pad(runs[:, 1:] != runs[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  # A document begins with its first real token.
  lead = jnp.cumsum(real, axis=1) == 0
  first = jnp.where(fresh, index, 0)
  first = jnp.where(lead, index + 1, first)
  begin = jax.lax.cummax(first, axis=1)
  keys = jnp.where(real, runs, -1)

  def cut(x):
    return jax.lax.dynamic_slice_in_dim(x, offset, T, axis=1)

  now = offset + jnp.arange(T, dtype=jnp.int32)
  return Rows(keys, cut(keys), cut(begin), now)


def anchors(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  where: Rows,
  geometry: Geometry,
  offset: Any,
) -> Int[Array, "B T N top"]:
  """Returns the anchors of the greatest q . k, the best first; of equals the farther.

  It scans the stripes, for all queries at once: the anchors of a stripe are the keys,
  shifted.
  """
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  table = tables.stripes(S, geometry.window_index, geometry.search_power)[::-1].copy()
  q, k = jax.lax.stop_gradient((q, k))
  query = q.reshape(B, T, K, N // K, H)
  keys = jnp.pad(k, ((0, 0), (S, 0), (0, 0), (0, 0)))
  ids = jnp.pad(where.keys, ((0, 0), (S, 0)), constant_values=-1)
  none = jnp.full((B, T, N, geometry.top), -1, jnp.int32)
  start = jnp.full(none.shape, -jnp.inf, accumulator_dtype(q)), none
  start = devices.vary_like(start, q, k, where)

  def visit(best, f):
    def shifted(x):
      return jax.lax.dynamic_slice_in_dim(x, S + 1 - f + offset, T, axis=1)

    score = jnp.einsum(
      "btkgh,btkh->btkg",
      query,
      shifted(keys),
      preferred_element_type=accumulator_dtype(q),
    ).reshape(B, T, N)
    own = shifted(ids)
    valid = ((own == where.queries) & (own >= 0))[..., None]
    anchor = jnp.broadcast_to((where.now + 1 - f)[None, :, None], score.shape)
    found = jnp.where(valid, score, -jnp.inf), jnp.where(valid, anchor, -1)
    scores, index = (
      jnp.concatenate([a, b[..., None]], axis=-1) for a, b in zip(best, found)
    )
    scores, place = jax.lax.top_k(scores, geometry.top)
    return (scores, jnp.take_along_axis(index, place, axis=-1)), None

  return jax.lax.scan(visit, start, jnp.asarray(table))[0][1]


def spans(
  anchor: Int[Array, "B T N top"], where: Rows, geometry: Geometry, S: int
) -> Spans:
  """Returns the spans around anchors: inside the document, before the window."""
  seen = jnp.maximum(where.now[None] + 1 - where.begin, 0)  # (B, T) tokens so far
  back, ahead = (
    jnp.asarray(tables.reaches(S, factor, geometry.span_power))[seen]
    for factor in (geometry.backward, geometry.forward)
  )
  last = where.now - geometry.window
  column = (slice(None), slice(None), None, None)
  start = jnp.maximum(anchor - back[column], where.begin[column])
  end = jnp.minimum(anchor + ahead[column], last[None, :, None, None])
  some = anchor >= 0
  return Spans(jnp.where(some, start, -1), anchor, jnp.where(some, end, -1), back)


def span_search(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  where: Rows,
  geometry: Geometry,
  offset: Any,
) -> tuple[Spans, Float[Array, "B T N top"]]:
  """Returns the spans and the differentiable scores of their anchors, 0 where none."""
  (B, T, N, H), (S, K), top = q.shape, k.shape[1:3], geometry.top
  found = spans(anchors(q, k, where, geometry, offset), where, geometry, S)
  index = by_key_head(found.anchor, K)
  keys = select.rows(k.swapaxes(1, 2), index.reshape(B, K, -1))
  keys = keys.reshape(B, K, N // K, T, top, H)
  query = q.reshape(B, T, K, N // K, H)
  score = jnp.einsum(
    "btkgh,bkgtjh->btkgj", query, keys, preferred_element_type=accumulator_dtype(q)
  ).reshape(B, T, N, top)
  # Raw scores, as published: no H^-0.5.
  return found, jnp.where(found.anchor >= 0, score, 0)


def by_key_head(x: Array, K: int) -> Array:
  """Reshapes (B, T, N, ...) to (B, K, N / K, T, ...)."""
  x = x.reshape(*x.shape[:2], K, -1, *x.shape[3:])
  return jnp.moveaxis(x, 1, 3)


def distances(geometry: Geometry, S: int) -> Array:
  """Returns whether a key at distance 0, ..., S - 1 is an anchor; bool, (S,)."""
  table = tables.stripes(S, geometry.window_index, geometry.search_power)
  return jnp.zeros(S, bool).at[jnp.asarray(table) - 1].set(True)
