"""Decoding: the caches of the kinds, and their steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnjax.contract import context as contexts
from attnjax.contract.context import Heads
from attnjax.core.cache import KeyValueCache, RecurrentCache
from attnjax.core.exported import serializable
from attnjax.core.recurrence.prefix import State
from attnjax.ops import self_attention
from attnjax.variants.softmax.deconstructed import documents, taylor
from attnjax.variants.softmax.deconstructed.attention import (
  gated_mean_attention,
  taylor_attention,
)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CountedState:
  """The cache of the kinds "approximate" and "mlp".

  Attributes:
    recurrent: the sums over the past, see `taylor`; None in "mlp".
    length: int32, (), the number of tokens so far, for the positions of the next.
  """

  recurrent: Any
  length: Any


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FixedCache:
  """The cache of the kinds "rndemb" and "fixedseq".

  Attributes:
    q: (1, L, N, H), the fixed sequence's queries.
    k: (1, L, N, H), its keys.
    tokens: the values so far, each with the key at its place.
  """

  q: Any
  k: Any
  tokens: Any


def empty(layer: Any, batch: int, length: int, dtype: Any, stream: Any) -> Any:
  """Returns the cache of no tokens; the arguments are those of `Layer.init_cache`."""
  N, H = layer.shape
  wide, none = jnp.promote_types(dtype, jnp.float32), jnp.zeros((), jnp.int32)
  if layer.kind == "mlp":
    return CountedState(None, none)
  if layer.kind == "approximate":
    return CountedState(RecurrentCache.empty(taylor.empty(batch, N, H, H, wide)), none)
  if layer.kind == "nonapprox":
    return RecurrentCache.empty(State.empty((batch, N, H), wide))
  tokens = KeyValueCache.empty(batch, length, layer.shape, layer.shape, dtype)
  if layer.reads != "fixed":
    return tokens
  found = layer.source(jnp.zeros((1, length, 0)), stream)[:, :length]
  q, k = layer.queries_and_keys(found, jnp.arange(length))
  return FixedCache(q.astype(dtype), k.astype(dtype), tokens)


def step(layer: Any, x: Array, cache: Any, given: Any) -> tuple[Array, Any]:
  """Returns the results of the next T tokens, and the cache after them.

  Args:
    layer: of this system.
    x: (B, T, D), not empty.
    cache: of `empty`, or of the step before.
    given: the context, with the stream.
  """
  if isinstance(cache, KeyValueCache):
    return self_attention.step(layer, x, cache, given)
  if isinstance(cache, FixedCache):
    return _fixed(layer, x, cache, given)
  start = cache.length if isinstance(cache, CountedState) else 0
  heads = layer.project(x, start=start, **given)
  if isinstance(cache, RecurrentCache):
    out, after = _gated(layer, heads, cache)
    return layer.merge(out, heads), after
  out, after = heads.v, cache.recurrent
  if after is not None:
    out, after = _taylor(layer, heads, after)
  return layer.merge(out, heads), CountedState(after, start + x.shape[1])


def _gated(layer, heads, cache):
  ids, out = heads.tokens.ids, cache.state.out
  state = cache.resumed(ids, State.empty(out.shape, out.dtype))
  given = heads.seen | {"impl": layer.impl, "return_state": True}
  out, state = gated_mean_attention(heads.q, heads.k, heads.v, state, **given)
  return out, cache.advanced(state, ids)


def _taylor(layer, heads, cache):
  ids = heads.tokens.ids
  state = cache.resumed(ids, jnp.zeros_like(cache.state))
  given = layer.taylor() | heads.seen | {"return_state": True}
  given["chunk"] = given["chunk"] or None  # all pairs have no state
  out, state = taylor_attention(heads.q, heads.k, heads.v, state, **given)
  return out, cache.advanced(state, ids)


def _fixed(layer, x, cache, given):
  """Returns a step's results; a token's key is that of its place in its document."""
  context: Any = {name: value for name, value in given.items() if name != "stream"}
  if given["stream"] is not None:
    raise ValueError("stream: the cache has the fixed sequence")
  found = contexts.accept(x, context, form="causal", refuses=layer.refuses)
  ids = jnp.zeros(x.shape[:2], jnp.int32) if found.ids is None else found.ids
  v, start = layer.qkv.value(found.x), cache.tokens.length
  row = cache.tokens.append(jnp.zeros_like(v), v, ids).segment_ids
  number, place = documents.numbered(row)
  own, at = (
    jax.lax.dynamic_slice_in_dim(y, start, x.shape[1], axis=1) for y in (number, place)
  )
  q, k = (y[0][at] for y in (cache.q, cache.k))
  after = cache.tokens.append(k, v, ids)
  seen = {"segment_ids": own, "kv_segment_ids": number, "offset": start}
  heads = Heads(q, after.k, after.v, found, seen)
  return layer.merge(layer.mix(heads), heads), dataclasses.replace(cache, tokens=after)
