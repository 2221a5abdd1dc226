"""The definition of both kinds: for each cluster the (T, T) matrix of its pairs."""

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference(
  q,
  k,
  v,
  means,
  cluster_size,
  kind="auto",
  causal=False,
  share_qk=False,
  route_q=None,
  route_k=None,
  memory_k=None,
  memory_v=None,
  segment_ids=None,
  valid=None,
  scale=None,
  eps=1e-5,
):
  """Computes the definition: for each cluster the (T, T) matrix of pairs inside it."""
  B, T, _, H = q.shape
  document = definition.documents(segment_ids, None, (B, T))
  real = document >= 0

  def blank(x):
    return jnp.where(real[..., None, None], definition.wide(x), 0)

  query, key, value = blank(q), blank(k), blank(v)
  route_q = query if route_q is None else blank(route_q)
  route_k = key if route_k is None else blank(route_k)
  near_q = _near(route_q, means)
  near_k = near_q if share_qk else _near(route_k, means)
  key = _unit(key) if share_qk else key
  if kind == "auto":
    kind = "past" if causal else "all"
  seen = real if valid is None else valid
  joins, pair = _clusters(near_q, near_k, document, seen, cluster_size, kind, causal)
  scale = H**-0.5 if scale is None else scale
  scores = scale * jnp.einsum("btnh,bsnh->bnts", query, key)
  if share_qk:  # a token counts for itself only where it sees no other
    scores = jnp.where(jnp.eye(T, dtype=bool), -5e4, scores)
  scores = jnp.where(pair, scores[:, :, None], -jnp.inf)  # (B, N, c, T, T)
  values = jnp.broadcast_to(
    value.swapaxes(1, 2)[:, :, None], (*scores.shape[:4], value.shape[3])
  )
  if memory_k is not None and memory_v is not None:
    memory = scale * jnp.einsum("btnh,ncmh->bnctm", query, definition.wide(memory_k))
    scores = jnp.concatenate([scores, memory], axis=4)
    memory = jnp.broadcast_to(
      definition.wide(memory_v), (*values.shape[:3], *memory_v.shape[2:])
    )
    values = jnp.concatenate([values, memory], axis=3)
  weight, _ = definition.weights(scores)
  out = jnp.einsum("bnct,bncts,bncsv->btnv", joins, weight, values)
  number = joins.sum(axis=2).swapaxes(1, 2)[..., None]
  return (out / (number + eps)).astype(v.dtype)


def _clusters(near_q, near_k, document, seen, size, kind, causal):
  """Returns who asks in a cluster (B, N, c, T), and its pairs (B, N, c, T, T)."""
  T, real = document.shape[1], document >= 0
  past = jnp.tril(jnp.ones((T, T), bool)) | (not causal)
  if kind == "past":
    nearest = near_q.argmax(axis=2)[:, :, None]
    joins = jnp.arange(near_q.shape[2])[:, None] == nearest
    same = (document[:, :, None] == document[:, None]) & real[:, None] & past
    pair = definition.best(near_k[..., None, :], same[:, None, None], size)
    return joins & real[:, None, None], pair
  joins, members = (
    definition.best(near, real[:, None, None], size) for near in (near_q, near_k)
  )
  pair = past & seen[:, None, :] & seen[:, :, None]
  return joins, members[..., None, :] & pair[:, None, None]


def _unit(x):
  """Divides by the length; 0 stays 0."""
  square = (x * x).sum(axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.where(square > 0, square, 1))


def _near(x, means):
  """Returns the product of each token's direction and each centroid, (B, N, c, T)."""
  x, means = jax.lax.stop_gradient((_unit(x), definition.wide(means)))
  return jnp.einsum("btnh,nch->bnct", x, means)
