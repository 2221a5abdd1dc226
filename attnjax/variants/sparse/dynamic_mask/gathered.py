"""The memory-lean algorithm: gathers the listed keys of each chunk of queries."""

import functools

import jax
import jax.numpy as jnp

from attnjax import attention
from attnjax.core import masks, select
from attnjax.core.recurrence import linear
from attnjax.core.scores import Scores
from attnjax.variants.sparse.dynamic_mask import selection

# Shortest chunk of queries: matrix products of shorter ones are too small to be fast.
_SHORTEST = 64


def causal(q, k, v, importance, keep_keys, ids, scale, impl):
  """Computes (out, lse) by chunks of queries, each with the keys they may keep."""
  (B, T), K = q.shape[:2], k.shape[2]
  size = min(T, max(keep_keys, _SHORTEST))
  end = -T % size
  ids = jnp.zeros((B, T), jnp.int32) if ids is None else ids
  ids = jnp.pad(ids, ((0, 0), (0, end)), constant_values=-1)
  q, k, v, importance = (
    jnp.pad(x, ((0, 0), (0, end)) + ((0, 0),) * (x.ndim - 2))
    for x in (q, k, v, importance)
  )
  heads = importance.swapaxes(1, 2)  # (B, K, T)
  real = jnp.where(ids[:, None] >= 0, heads, -jnp.inf).reshape(B * K, -1)
  # Padding between tokens of a document does not end it.
  filled, _ = linear.spans(ids)
  index = select.so_far(real, jnp.repeat(filled, K, axis=0), keep_keys, size)
  index = index.reshape(B, K, -1, index.shape[-1])
  out, lse = chunks(q, k, v, heads, index, ids, size, keep_keys, scale, impl)
  return out[:, :T], lse[:, :T]


def chunks(q, k, v, importance, index, ids, size, keep_keys, scale, impl):
  """Computes (out, lse) of chunks of queries over listed keys.

  Args:
    q: (B, n size, N, H).
    k: (B, S, K, H).
    v: (B, S, K, V).
    importance: (B, K, S).
    index: (B, K, n, M), the keys listed for each chunk, the most important first; -1
      is none. The last n size of the S keys are the tokens of the queries.
    ids: (B, S), the documents of the keys, -1 at padding.
    size: queries of a chunk.
    keep_keys: keys that a query sees, at most.
    scale: of the scores.
    impl: of the softmax.
  """
  (B, T, N, _), (S, K), M = q.shape, k.shape[1:3], index.shape[-1]
  flat = index.reshape(B, K, -1)
  time = jnp.where(flat < 0, S, flat)
  document = jnp.take_along_axis(ids[:, None], jnp.maximum(flat, 0), axis=2)
  own = jnp.where(flat < 0, -1, document).reshape(-1, M)
  time = time.reshape(-1, M)
  now = jnp.broadcast_to(
    jnp.arange(S - T, S).reshape(-1, size), (B, K, T // size, size)
  )
  here = jnp.broadcast_to(ids[:, None, S - T :].reshape(B, 1, -1, size), now.shape)
  now, here = now.reshape(-1, size), here.reshape(-1, size)

  last = functools.partial(_last, keep_keys=keep_keys)
  limit = jax.lax.map(last, (time, own, now, here))
  mask = select.AtMost(limit, jnp.arange(M, dtype=jnp.int32)[None])
  mask = mask & select.AtMost(now, time) & masks.Segments(here, own)
  key, value = (
    select.rows(x.swapaxes(1, 2), flat).reshape(-1, M, 1, x.shape[-1]) for x in (k, v)
  )
  bias = select.rows(importance[..., None], flat).reshape(-1, 1, 1, M)
  query = q.reshape(B, -1, size, K, N // K, q.shape[-1]).transpose(0, 3, 1, 2, 4, 5)
  query = query.reshape(-1, size, N // K, q.shape[-1])
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  scores = Scores(mask, bias=bias)
  out, lse = attention.attend(query, key, value, scores, scale=scale, impl=impl)

  def join(x):
    x = x.reshape(B, K, T // size, size, *x.shape[2:])
    x = jnp.moveaxis(x, 1, 3)  # (B, n, size, K, g, ...)
    return x.reshape(B, T, N, *x.shape[5:])

  return join(out), join(lse)


def _last(part, *, keep_keys):
  """Returns the place in the list of the last key that each query of a chunk keeps."""
  time, own, now, here = part
  may = (time[None] <= now[:, None]) & (own[None] == here[:, None])
  return select.last_place(may, keep_keys)


def shared(q, k, v, importance, keep_keys, ids, scale, impl):
  """Computes (out, lse) without a causal mask: all queries of a document share keys."""
  (B, T, N, H), K = q.shape, k.shape[2]
  documents = jnp.zeros((B, T), jnp.int32) if ids is None else ids
  kept = selection.best_of_documents(importance, documents, keep_keys)
  # One document keeps at most `keep_keys`; several may keep up to T together.
  count = min(keep_keys, T) if ids is None else T
  index = jnp.argsort(~kept, axis=2, stable=True)[..., :count]
  document = jnp.where(kept, documents[:, None], -1)
  own = jnp.take_along_axis(document, index, axis=2).reshape(B * K, -1)
  key, value = (
    select.rows(x.swapaxes(1, 2), index).reshape(B * K, count, 1, x.shape[-1])
    for x in (k, v)
  )
  bias = jnp.take_along_axis(importance.swapaxes(1, 2), index, axis=2)
  query = q.reshape(B, T, K, -1, H).swapaxes(1, 2).reshape(B * K, T, N // K, H)
  mask = masks.Segments(jnp.repeat(documents, K, axis=0), own)
  scores = Scores(mask, bias=bias.reshape(B * K, 1, 1, count))
  out, lse = attention.attend(query, key, value, scores, scale=scale, impl=impl)

  def join(x):
    x = x.reshape(B, K, T, *x.shape[2:]).swapaxes(1, 2)
    return x.reshape(B, T, N, *x.shape[4:])

  return join(out), join(lse)
