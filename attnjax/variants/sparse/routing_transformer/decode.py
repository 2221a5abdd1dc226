"""Decoding: a cache of all keys, with their affinities to the centroids."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import masks
from attnjax.core.cache import KeyValueCache
from attnjax.core.exported import serializable
from attnjax.core.recurrence import linear
from attnjax.variants.sparse.routing_transformer import attention, clustered, kmeans


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The keys and values of all tokens so far, and their affinities to the centroids.

  Attributes:
    tokens: KeyValueCache.
    affinity: float32 (float64 for float64), (B, N, c, L).
  """

  tokens: Any
  affinity: Any

  @classmethod
  def empty(cls, batch: int, length: int, heads: int, size: int, clusters: int, dtype):
    """Returns an empty cache with room for `length` tokens."""
    shape = (heads, size)
    wider = jnp.promote_types(dtype, jnp.float32)
    return cls(
      KeyValueCache.empty(batch, length, shape, shape, dtype),
      jnp.zeros((batch, heads, clusters, length), wider),
    )


def step(
  q,
  k,
  v,
  means,
  ids,
  cache: Cache,
  *,
  cluster_size,
  share_qk,
  route_q,
  route_k,
  memory_k=None,
  memory_v=None,
  eps=1e-5,
  impl="auto",
):
  """Returns (out (B, T, N, V), cache) of the next T tokens, for the kind "past".

  Args:
    q: queries, (B, T, N, H).
    k: keys, as in `attend`.
    v: values, as in `attend`.
    means: the centroids, equal in all steps.
    ids: int, (B, T), segments; negative is padding.
    cache: of the earlier tokens.
    cluster_size: keys that a query sees, at most.
    share_qk: as in `attend`.
    route_q: vectors by which queries are routed.
    route_k: vectors by which keys are routed.
    memory_k: as in `attend`.
    memory_v: as in `attend`.
    eps: as in `attend`.
    impl: of the softmax.
  """
  (T, N, H), c = q.shape[1:], means.shape[1]
  k = kmeans.unit(k).astype(k.dtype) if share_qk else k
  start, near = cache.tokens.length, kmeans.affinity(route_k, means)
  cache = Cache(
    cache.tokens.append(k, v, ids),
    jax.lax.dynamic_update_slice_in_dim(
      cache.affinity, near.astype(cache.affinity.dtype), start, axis=3
    ),
  )
  filled, real = linear.spans(cache.tokens.segment_ids)
  runs = jnp.where(real, masks.documents(filled), -1)
  now = start + jnp.arange(T, dtype=jnp.int32)
  here = jax.lax.dynamic_slice_in_dim(runs, start, T, axis=1)
  cluster = kmeans.assign(route_q, means)
  scores = jnp.take_along_axis(cache.affinity, cluster[..., None], axis=2)
  allowed = (runs[:, None] == here[..., None]) & (here[..., None] >= 0)
  past = jnp.arange(runs.shape[1])[None] <= now[:, None]
  allowed = (allowed & past[None])[:, None]
  scores = jnp.where(allowed, scores, -jnp.inf)
  best, index = jax.lax.top_k(scores, min(cluster_size, scores.shape[-1]))
  index = jnp.where(best > -jnp.inf, index, -1).astype(jnp.int32)
  if memory_k is None or memory_v is None:
    memory_k = memory_v = jnp.zeros((N, c, 0, H), q.dtype)
  problem = clustered.Problem(
    near_q=None,
    near_k=None,
    memory=(memory_k, memory_v),
    ids=runs,
    valid=None,
    cluster_size=cluster_size,
    causal=True,
    own=attention.OWN if share_qk else None,
    scale=H**-0.5,
    impl=impl,
  )
  q, k, v = (x.swapaxes(1, 2) for x in (q, cache.tokens.k, cache.tokens.v))
  out = clustered.listed_keys(q, k, v, index, now, cluster, problem)
  out = jnp.where(here[:, None, :, None] >= 0, out, 0) / (1 + eps)
  return out.swapaxes(1, 2), cache
