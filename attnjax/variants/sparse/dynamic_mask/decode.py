"""Decoding: a cache of the most important tokens instead of the whole sequence."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnjax.contract.context import Heads
from attnjax.core import masks, select
from attnjax.core.cache import RecurrentCache, poison
from attnjax.core.exported import serializable
from attnjax.core.recurrence import linear
from attnjax.variants.sparse.dynamic_mask import gathered


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
  """The w most important tokens of each key head so far, in descending order.

  The importance that a token needs to be kept never falls, so a token that was dropped
  would not be kept later.

  Attributes:
    k: (B, w, K, H).
    v: (B, w, K, V).
    importance: (B, w, K), float32 (float64 for float64), -inf where there is no token.
  """

  k: Any
  v: Any
  importance: Any

  @classmethod
  def empty(cls, batch: int, slots: int, heads: int, size: int, dtype):
    """Returns the state before the first token."""
    wider = jnp.promote_types(dtype, jnp.float32)
    return cls(
      k=jnp.zeros((batch, slots, heads, size), dtype),
      v=jnp.zeros((batch, slots, heads, size), dtype),
      importance=jnp.full((batch, slots, heads), -jnp.inf, wider),
    )


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The kept tokens of the last document, and the number of tokens of the row so far.

  Attributes:
    document: RecurrentCache with the state Kept.
    length: int32, (), number of tokens seen so far, equal for the whole batch.
  """

  document: Any
  length: Any

  @classmethod
  def empty(cls, batch: int, slots: int, heads: int, size: int, dtype):
    """Returns the cache before the first token."""
    kept = Kept.empty(batch, slots, heads, size, dtype)
    return cls(RecurrentCache.empty(kept), jnp.zeros((), jnp.int32))


def step(
  heads: Heads, cache: Cache, *, keep_keys: int, impl: str
) -> tuple[Array, Cache]:
  """Returns (out, cache) of the next T tokens.

  Args:
    heads: the heads of the layer's input.
    cache: with room for `keep_keys` tokens, or for the whole sequence.
    keep_keys: as in `attend`.
    impl: of the softmax, as in `attend`.
  """
  q, k, v, importance = heads.q, heads.k, heads.v, heads.more["importance"]
  ids = heads.tokens.ids
  ids = jnp.zeros(q.shape[:2], jnp.int32) if ids is None else ids
  kept = cache.document.state
  (B, T), (w, K, H) = ids.shape, kept.k.shape[1:]
  kept = cache.document.resumed(ids, Kept.empty(B, w, K, H, kept.k.dtype))
  filled, real = linear.spans(ids)
  runs = masks.documents(jnp.maximum(filled, 0))
  if w < keep_keys:
    v = poison(v, cache.length + T > w)

  def flat(x):
    return x.swapaxes(1, 2).reshape(B * K, -1)

  held, places = flat(kept.importance), jnp.arange(w + T, dtype=jnp.int32)
  given = flat(jnp.where(real[..., None], importance.astype(held.dtype), -jnp.inf))
  later = jnp.broadcast_to(places[w:], given.shape)
  new = select.Best(given, later, jnp.repeat(runs, K, axis=0))
  # The kept tokens belong to the run that the first new token continues, or are none.
  where = jnp.where(held > -jnp.inf, places[:w], -1)
  whole, best = select.Best(held, where, jnp.zeros_like(where)).extend(new)
  k, v, importance = (
    jnp.concatenate([a, b.astype(a.dtype)], axis=1)
    for a, b in ((kept.k, k), (kept.v, v), (kept.importance, importance))
  )
  runs = jnp.pad(jnp.where(real, runs, -1), ((0, 0), (w, 0)))
  # No list holds an empty slot, but an index of -1 gathers slot 0, which may be empty.
  finite = jnp.where(importance > -jnp.inf, importance, 0).swapaxes(1, 2)
  index = whole.index.reshape(B, K, 1, w + T)
  out, _ = gathered.chunks(q, k, v, finite, index, runs, T, keep_keys, None, impl)
  chosen = best.index.reshape(B, K, w)
  k, v = (select.rows(x.swapaxes(1, 2), chosen).swapaxes(1, 2) for x in (k, v))
  scores = best.scores.reshape(B, K, w).swapaxes(1, 2)
  document = cache.document.advanced(Kept(k, v, scores), ids)
  return out, Cache(document, cache.length + T)
