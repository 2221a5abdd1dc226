"""Decoding: a cache of the most important tokens, not of the sequence."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import linear, masks, select
from attnjax.core.cache import poison
from attnjax.core.exported import serializable
from attnjax.variants.sparse.dynamic_mask import gathered


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The w best tokens of each key head so far, the most important first.

  The importance that a token needs to be kept never falls, so what was dropped would
  not be kept again.

  Attributes:
    k: (B, w, K, H).
    v: (B, w, K, V).
    importance: (B, w, K), float32 (float64 for float64), -inf where there is no token.
    segment_ids: int32, (B,), of the last real token; -1 before the first one.
    length: int32, (), tokens seen so far, the same for the whole batch.
  """

  k: Any
  v: Any
  importance: Any
  segment_ids: Any
  length: Any

  @classmethod
  def empty(cls, batch: int, slots: int, heads: int, size: int, dtype):
    """Without tokens."""
    wider = jnp.promote_types(dtype, jnp.float32)
    return cls(
      k=jnp.zeros((batch, slots, heads, size), dtype),
      v=jnp.zeros((batch, slots, heads, size), dtype),
      importance=jnp.full((batch, slots, heads), -jnp.inf, wider),
      segment_ids=jnp.full((batch,), -1, jnp.int32),
      length=jnp.zeros((), jnp.int32),
    )


def step(q, k, v, importance, ids, cache: Cache, *, keep, scale, impl):
  """(out, cache) of the next T tokens.

  Args:
    q: (B, T, N, H).
    k: (B, T, K, H).
    v: (B, T, K, V).
    importance: (B, T, K).
    ids: int, (B, T), segments; negative is padding.
    cache: with room for `keep` tokens, or for the whole sequence.
    keep: as in `attend`, like `scale` and `impl`.
    scale: of the scores.
    impl: of the softmax.
  """
  (B, T), (w, K) = ids.shape, cache.k.shape[1:3]
  filled, real = linear.spans(ids)
  first, last = filled[:, 0], filled[:, -1]
  goes_on = (first == cache.segment_ids) | (first < 0)
  runs = masks.documents(jnp.maximum(filled, 0))
  old = jnp.where(goes_on, 0, -1)
  if w < keep:
    v = poison(v, cache.length + T > w)

  def heads(x, dead):
    return jnp.where(dead[:, None], -jnp.inf, x.swapaxes(1, 2)).reshape(B * K, -1)

  held = heads(cache.importance, ~goes_on[:, None])
  places = jnp.arange(w + T, dtype=jnp.int32)
  given = heads(importance.astype(held.dtype), ~real)
  later = jnp.broadcast_to(places[w:], given.shape)
  new = select.Best(given, later, jnp.repeat(runs, K, axis=0))
  documents = jnp.broadcast_to(jnp.repeat(old, K)[:, None], held.shape)
  where = jnp.where(held > -jnp.inf, places[:w], -1)
  whole, best = select.Best(held, where, documents).extend(new)
  k, v, importance = (
    jnp.concatenate([a, b.astype(a.dtype)], axis=1)
    for a, b in ((cache.k, k), (cache.v, v), (cache.importance, importance))
  )
  ids = jnp.broadcast_to(old[:, None], (B, w)), jnp.where(real, runs, -1)
  ids = jnp.concatenate(ids, axis=1)
  # Empty places are listed nowhere, but are gathered in their stead.
  finite = jnp.where(importance > -jnp.inf, importance, 0).swapaxes(1, 2)
  index = whole.index.reshape(B, K, 1, w + T)
  out, _ = gathered.chunks(q, k, v, finite, index, ids, T, keep, scale, impl)
  kept = best.index.reshape(B, K, w)
  k, v = (select.rows(x.swapaxes(1, 2), kept).swapaxes(1, 2) for x in (k, v))
  last = jnp.where(last < 0, cache.segment_ids, last)
  scores = best.scores.reshape(B, K, w).swapaxes(1, 2)
  return out, Cache(k, v, scores, last, cache.length + T)
