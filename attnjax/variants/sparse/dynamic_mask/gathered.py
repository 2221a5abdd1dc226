"""The memory-lean algorithm: gathers the listed keys of each chunk of queries."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnjax import attention
from attnjax.core import masks, select
from attnjax.core.recurrence import linear
from attnjax.core.scores import Scores
from attnjax.variants.sparse.dynamic_mask import selection, smooth

# Shortest chunk of queries: matrix products of shorter ones are too small to be fast.
_SHORTEST = 64


class Choice(NamedTuple):
  """Holds the limits of a selection of keys by importance.

  keep_keys: keys that a query sees, at most. block_smooth: as in `attend`. ids (B, S):
  documents of queries and keys, or None. keys (B|1, S): where False, a key is not
  seen, or None.
  """

  keep_keys: int
  block_smooth: int = 0
  ids: Any = None
  keys: Any = None


def keys(mask, k):
  """Returns the keys (B|1, S) that a mask (B|1, 1, 1, S|1) allows; None for all."""
  if mask is None:
    return None
  return jnp.broadcast_to(mask[:, 0, 0], (mask.shape[0], k.shape[1]))


def causal(q, k, v, importance, choice, scale, impl):
  """Computes (out, lse) by chunks of queries, each with the keys they may keep."""
  (B, T), (S, K) = q.shape[:2], k.shape[1:3]
  if T > S:  # the first queries have no keys
    given = k, v, importance, choice, scale, impl
    out, lse = causal(q[:, T - S :], *given)
    ahead = ((0, 0), (T - S, 0), (0, 0))
    out = jnp.pad(out, (*ahead, (0, 0)))
    return out, jnp.pad(lse, ahead, constant_values=-jnp.inf)
  keep_keys, block, ids, own = choice
  size = min(S, max(keep_keys, _SHORTEST))
  skipped, front, end = (S - T) // size, (S - T) % size, -S % size
  ids = jnp.zeros((B, S), jnp.int32) if ids is None else ids
  ids = jnp.pad(ids, ((0, 0), (0, end)), constant_values=-1)

  def pad(x, before):
    return jnp.pad(x, ((0, 0), (before, end)) + ((0, 0),) * (x.ndim - 2))

  q, k, v, importance = pad(q, front), *(pad(x, 0) for x in (k, v, importance))
  given = ids if own is None else jnp.where(pad(own, 0), ids, -1)
  heads = importance.swapaxes(1, 2)  # (B, K, S)
  real = jnp.where(given[:, None] >= 0, heads, -jnp.inf).reshape(B * K, -1)
  # Padding between tokens of a document does not end it.
  filled, _ = linear.spans(ids)
  index = select.so_far(real, jnp.repeat(filled, K, axis=0), keep_keys, size)
  index = index.reshape(B, K, -1, index.shape[-1])[:, :, skipped:]
  lists = (ids, size, keep_keys, scale, impl)
  if block:
    lists = (*lists, smooth.Blocks(block, S, given))
  out, lse = chunks(q, k, v, heads, index, *lists)
  return out[:, front : front + T], lse[:, front : front + T]


def chunks(q, k, v, importance, index, ids, size, keep_keys, scale, impl, blocks=None):
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
    blocks: the groups of keys that a query keeps whole or not at all, or None.
  """
  (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
  shape, last = (B, K, T // size, size), jnp.arange(S - T, S)
  both = last.reshape(-1, size), ids[:, None, S - T :].reshape(B, 1, -1, size)
  now, here = (jnp.broadcast_to(x, shape).reshape(-1, size) for x in both)
  time, own = _listed(index, ids, S)
  if blocks is None:
    rank = functools.partial(_last, keep_keys=keep_keys)
    limit = jax.lax.map(rank, (time, own, now, here))
    places = jnp.arange(index.shape[3], dtype=jnp.int32)
    mask: Any = select.AtMost(limit, places[None])
  else:
    rows = index.reshape(time.shape), time, own, now, here
    index, whole = smooth.listed(*rows, keep_keys, blocks)
    index, mask = index.reshape(B, K, T // size, -1), masks.Dense(whole[:, None])
    time, own = _listed(index, blocks.ids, S)
  mask = mask & select.AtMost(now, time) & masks.Segments(here, own)
  flat, M = index.reshape(B, K, -1), index.shape[3]
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


def _listed(index, ids, S):
  """Returns the times and documents of listed keys, (B K n, M); S and -1 for none."""
  B, K, _, M = index.shape
  flat = index.reshape(B, K, -1)
  own = jnp.take_along_axis(ids[:, None], jnp.maximum(flat, 0), axis=2)
  time, own = jnp.where(flat < 0, S, flat), jnp.where(flat < 0, -1, own)
  return time.reshape(-1, M), own.reshape(-1, M)


def _last(part, *, keep_keys):
  """Returns the place in the list of the last key that each query of a chunk keeps."""
  time, own, now, here = part
  may = (time[None] <= now[:, None]) & (own[None] == here[:, None])
  return select.last_place(may, keep_keys)


def shared(q, k, v, importance, choice, scale, impl):
  """Computes (out, lse) without a causal mask: all queries of a document share keys."""
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  keep_keys, block, ids, keys = choice
  documents, own = (
    jnp.zeros((B, n), jnp.int32) if ids is None else ids for n in (T, S)
  )
  own = own if keys is None else jnp.where(keys, own, -1)
  kept = selection.best_of_documents(importance, own, keep_keys)
  kept = smooth.of_documents(kept, own, block) if block else kept
  # One document keeps at most `keep_keys`, or fewer than twice as many in whole groups;
  # several may keep up to S together.
  count = min(2 * keep_keys if block else keep_keys, S) if ids is None else S
  index = jnp.argsort(~kept, axis=2, stable=True)[..., :count]
  document = jnp.where(kept, own[:, None], -1)
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
