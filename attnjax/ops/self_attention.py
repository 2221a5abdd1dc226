"""Self-attention of layers: projection to heads, and decoding with a key/value cache.

These are functions, not a base class; see `attnjax.contract.context` for the three
parts of a layer, `project`, `mix` and `merge`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.core.policies import PolicyCache
from attnjax.nn import unseen
from attnjax.ops import policy_step


def heads(
  x: Array,
  context: Context,
  project: Callable[[Array, Array], tuple[Array, Array, Array]],
  *,
  form: str,
  refuses: Mapping[str, str] = contexts.NOTHING,
) -> Heads:
  """Returns the heads of x, of an image row by row.

  Args:
    x: (B, T, D) or (B, H, W, D).
    context: what the layer was called with.
    project: (x (B, T, D), positions) to q (B, T, N, H), k and v (B, T, K, ...).
    form: of the layer.
    refuses: as in `accept`.
  """
  tokens = contexts.accept(x, context, form=form, refuses=refuses)
  q, k, v = project(tokens.rows, tokens.places)
  return Heads(q, k, v, tokens, {"segment_ids": tokens.ids})


def check_decodes(form: str) -> None:
  """Raises NotImplementedError for a form whose tokens also see later ones."""
  if form != "causal":
    raise NotImplementedError(f"form {form!r} does not decode; form 'causal' does")


def empty_cache(
  form: str, batch: int, length: int, heads: int, size: int, dtype, queries: int = 0
) -> KeyValueCache:
  """Returns a cache with room for `length` tokens of keys and values (heads, size).

  Args:
    form: of the layer.
    batch: B.
    length: L.
    heads: K, of keys and values.
    size: H.
    dtype: of keys and values.
    queries: N, for cache policies that keep queries; 0 if the layer does not tell.

  Raises:
    NotImplementedError: if tokens also see later ones, so that no step is possible.
  """
  check_decodes(form)
  shape = heads, size
  return KeyValueCache.empty(batch, length, shape, shape, dtype, queries)


def step(
  layer: Any, x: Array, cache: KeyValueCache, context: Context
) -> tuple[Array, KeyValueCache]:
  """Returns a causal layer's result for the T tokens after those in the cache.

  Args:
    layer: with `project`, `mix` and `merge`.
    x: (B, T, D), T >= 1 or nothing.
    cache: the keys and values before; a PolicyCache asks its policy which are seen.
    context: what the step was called with.
  """
  if 0 in x.shape:
    return unseen.nothing(layer, x), cache
  if isinstance(cache, PolicyCache):
    return policy_step.step(layer, x, cache, context)
  start = cache.length
  heads = layer.project(x, start=start, **context)
  ids = heads.tokens.ids
  ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
  cache = cache.append(heads.k, heads.v, ids)
  seen = {"segment_ids": ids, "kv_segment_ids": cache.segment_ids, "offset": start}
  heads = dataclasses.replace(heads, k=cache.k, v=cache.v, seen=seen)
  return layer.merge(layer.mix(heads), heads), cache
