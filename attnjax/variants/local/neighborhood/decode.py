"""Decoding with a causal window: a buffer of the last keys, not the whole sequence."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax import attention
from attnjax.core.cache import poison
from attnjax.core.exported import serializable
from attnjax.core.grids import neighborhood
from attnjax.core.scores import Scores
from attnjax.variants.local.neighborhood.tiled import Axis


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The last M = window x dilation keys and values, the oldest first.

  Attributes:
    k: (B, M, K, H).
    v: (B, M, K, V).
    segment_ids: int32, (B, M), -1 where nothing is written or the token is padding.
    place: int32, (B,), number of earlier tokens in the first slot's document.
    length: int32, (), number of tokens written so far, equal for the whole batch.
    total: number of tokens of the whole sequence.
  """

  k: Any
  v: Any
  segment_ids: Any
  place: Any
  length: Any
  total: int = dataclasses.field(metadata={"static": True})

  @classmethod
  def empty(cls, batch: int, total: int, slots: int, heads: int, size: int, dtype):
    """Returns a cache for `total` tokens that keeps the last `slots` of them."""
    return cls(
      k=jnp.zeros((batch, slots, heads, size), dtype),
      v=jnp.zeros((batch, slots, heads, size), dtype),
      segment_ids=jnp.full((batch, slots), -1, jnp.int32),
      place=jnp.zeros((batch,), jnp.int32),
      length=jnp.zeros((), jnp.int32),
      total=total,
    )


def step(q, k, v, ids, cache: Cache, axis: Axis, scale, impl) -> tuple[Any, Cache]:
  """Returns (out, cache) of the next T tokens, with segments `ids` (B, T).

  With a stride above 1 every document is assumed to end with the sequence.
  """
  T, slots = q.shape[1], cache.k.shape[1]
  if T > cache.total:
    raise ValueError(f"{T} tokens do not fit a cache of length {cache.total}")
  v = poison(v.astype(cache.v.dtype), cache.length + T > cache.total)
  k = jnp.concatenate([cache.k, k.astype(cache.k.dtype)], axis=1)
  v = jnp.concatenate([cache.v, v], axis=1)
  ids = jnp.concatenate([cache.segment_ids, ids], axis=1)
  run, place, _ = jax.vmap(neighborhood.runs)(ids)
  place = place + jnp.where(run == 0, cache.place[:, None], 0)
  low, high = _interval(place[:, slots:], slots, cache, axis)
  low, high = (jnp.where(ids[:, slots:] < 0, 0, x)[None] for x in (low, high))
  scores = Scores(neighborhood.Windows(low, high, (slots + T,), axis.dilation))
  out, _ = attention.attend(q, k, v, scores, scale=scale, impl=impl)
  kept = Cache(
    k=k[:, T:],
    v=v[:, T:],
    segment_ids=ids[:, T:],
    place=place[:, T],
    length=cache.length + T,
    total=cache.total,
  )
  return out, kept


def _interval(place, slots, cache, axis):
  """Returns each new token's keys [low, high), as indices of buffer and new tokens."""
  i, d = jnp.arange(place.shape[1])[None], axis.dilation
  group, inner = place % d, place // d
  length = cache.total - (cache.length + i - place)  # of the document
  length = (length - group + d - 1) // d
  # Past the sequence's end any length is right: the values there are NaN.
  length = jnp.maximum(length, inner + 1)
  low, _ = neighborhood.bounds(inner, length, axis.window, axis.stride, causal=True)
  return slots + i - (inner - low) * d, jnp.broadcast_to(slots + i + 1, place.shape)
