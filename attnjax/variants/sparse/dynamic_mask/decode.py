"""Decoding: a cache of the most important tokens, not of the sequence."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnjax.contract.context import Heads
from attnjax.core import linear, masks, select
from attnjax.core.cache import RecurrentCache, poison
from attnjax.core.exported import serializable
from attnjax.variants.sparse.dynamic_mask import gathered


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
  """The w best tokens of each key head so far, the most important first.

  The importance that a token needs to be kept never falls, so what was dropped would
  not be kept again.

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
    """Returns what is kept of no tokens."""
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
  """What is kept of the last document, and how many tokens the row has had.

  Attributes:
    document: RecurrentCache with the state Kept.
    length: int32, (), tokens seen so far, the same for the whole batch.
  """

  document: Any
  length: Any

  @classmethod
  def empty(cls, batch: int, slots: int, heads: int, size: int, dtype):
    """Returns the cache of no tokens."""
    kept = Kept.empty(batch, slots, heads, size, dtype)
    return cls(RecurrentCache.empty(kept), jnp.zeros((), jnp.int32))


def step(
  heads: Heads, cache: Cache, *, keep_keys: int, impl: str
) -> tuple[Array, Cache]:
  """Returns (out, cache) of the next T tokens.

  Args:
    heads: of the layer's input.
    cache: with room for `keep_keys` tokens, or for the whole sequence.
    keep_keys: as in `attend`, like `impl`.
    impl: of the softmax.
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
  # What is kept is of the run that the first of the tokens goes on with, or empty.
  where = jnp.where(held > -jnp.inf, places[:w], -1)
  whole, best = select.Best(held, where, jnp.zeros_like(where)).extend(new)
  k, v, importance = (
    jnp.concatenate([a, b.astype(a.dtype)], axis=1)
    for a, b in ((kept.k, k), (kept.v, v), (kept.importance, importance))
  )
  runs = jnp.pad(jnp.where(real, runs, -1), ((0, 0), (w, 0)))
  # Empty places are listed nowhere, but are gathered in their stead.
  finite = jnp.where(importance > -jnp.inf, importance, 0).swapaxes(1, 2)
  index = whole.index.reshape(B, K, 1, w + T)
  out, _ = gathered.chunks(q, k, v, finite, index, runs, T, keep_keys, None, impl)
  chosen = best.index.reshape(B, K, w)
  k, v = (select.rows(x.swapaxes(1, 2), chosen).swapaxes(1, 2) for x in (k, v))
  scores = best.scores.reshape(B, K, w).swapaxes(1, 2)
  document = cache.document.advanced(Kept(k, v, scores), ids)
  return out, Cache(document, cache.length + T)
