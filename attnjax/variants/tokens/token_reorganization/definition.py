"""The definitions: one image and one token at a time."""

import math

import jax.numpy as jnp

from attnjax.core import definition


def reference_class_attention(q, k, *, scale=None, valid=None):
  """Computes the definition: a softmax for each head, then their mean."""
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  q, k = definition.wide(q), definition.wide(k)
  k = k if valid is None else jnp.where(valid[..., None, None], k, 0)
  rows = []
  for b in range(q.shape[0]):
    heads = []
    for n in range(q.shape[1]):
      weight = jnp.exp(scale * (k[b, :, n] @ q[b, n]))
      weight = weight if valid is None else jnp.where(valid[b], weight, 0)
      heads.append(weight / weight.sum())
    rows.append(sum(heads) / len(heads))
  return jnp.stack(rows)


def reference_reorganize(x, scores, *, keep_ratio, fuse=True):
  """Computes the definition, from a sorted list of the patches."""
  n, rows, places = x.shape[1] - 1, [], []
  count = math.ceil(keep_ratio * n)
  for own, score in zip(x, scores):
    order = sorted_places(score, n)
    tokens = [own[0], *(own[1 + order[i]] for i in range(count))]
    if fuse and count < n:
      token = jnp.zeros_like(definition.wide(own[0]))
      for i in range(count, n):
        token = token + score[order[i]] * definition.wide(own[1 + order[i]])
      tokens.append(token.astype(x.dtype))
    rows.append(jnp.stack(tokens) if count < n else own)
    places.append(order[:count] if count < n else jnp.arange(n))
  return jnp.stack(rows), jnp.stack(places).astype(jnp.int32)


def reference_reduce_tokens(x, scores, *, keep_ratio, fuse=True, prefix=0, valid=None):
  """Computes the definition: ranks and places by counting, a matrix of 0 and 1."""
  B, T, _ = x.shape
  real = jnp.ones((B, T), bool) if valid is None else valid
  x = jnp.where(real[..., None], x, 0)
  whole = math.ceil(keep_ratio * (T - prefix))
  if whole == T - prefix:
    return x, jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
  rows, places = [], []
  for own, score, there in zip(x, scores, real):
    place = jnp.arange(T)
    ranked = there & (jnp.cumsum(there) > prefix)
    ahead = (score[None] > score[:, None]) | (
      (score[None] == score[:, None]) & (place[None] < place[:, None])
    )
    rank = (ahead & ranked[None]).sum(axis=1)
    many = ranked.sum()
    count = sum((many == n) * math.ceil(keep_ratio * n) for n in range(T + 1))
    left, first = ranked & (rank >= count), ranked & (rank == count)
    stays = there & ~left
    if fuse:
      token = definition.wide(own).T @ jnp.where(left, definition.wide(score), 0)
      own = jnp.where(first[:, None], token.astype(own.dtype), own)
      stays = stays | first
    # Tokens that stay come in their order, then padding in its own.
    padding = stays.sum() + jnp.cumsum(~there) - 1
    at = jnp.where(stays, jnp.cumsum(stays) - 1, jnp.where(there, T, padding))
    taken = jnp.arange(prefix + whole + fuse)[:, None] == at
    rows.append(taken.astype(own.dtype) @ own)
    places.append(taken @ place)
  return jnp.stack(rows), jnp.stack(places).astype(jnp.int32)


def reference_reorganize_masked(x, scores, *, left, count, slot, fuse=True):
  """Computes the definition: ranks by counting, a row at a time."""
  rows, masks = [], []
  for own, score, there in zip(x, scores, left):
    place = jnp.arange(len(own))
    ranked = there & (place > 0)
    ahead = (score[None] > score[:, None]) | (
      (score[None] == score[:, None]) & (place[None] < place[:, None])
    )
    stays = ranked & ((ahead & ranked[None]).sum(axis=1) < count)
    others = ranked & ~stays
    stays = stays.at[0].set(there[0])
    if fuse:
      token = definition.wide(own).T @ jnp.where(others, definition.wide(score), 0)
      some = others.any()
      own = own.at[slot].set(jnp.where(some, token.astype(own.dtype), own[slot]))
      stays = stays.at[slot].set(stays[slot] | some)
    rows.append(own)
    masks.append(stays)
  return jnp.stack(rows), jnp.stack(masks)


def sorted_places(score, count):
  """Returns places in the order of falling scores; the first of equal ones first."""
  before = score[:, None] < score[None, :]
  earlier = jnp.arange(count)[None, :] < jnp.arange(count)[:, None]
  rank = (before | ((score[:, None] == score[None, :]) & earlier)).sum(axis=1)
  return jnp.zeros(count, jnp.int32).at[rank].set(jnp.arange(count))
