"""The definitions: pair by pair, window by window."""

import jax.numpy as jnp

from attnjax.core import definition

EPSILON = 1e-8  # of the authors' code


def reference_p_laplacian_step(
  nodes, graph, rows=None, p=1.75, mu=0.1, *, epsilon=EPSILON
):
  """Computes the definition, with the differences (B, N, T, S, C) of all pairs."""
  own = nodes if rows is None else rows
  return _step(nodes, graph, own, p, mu, epsilon, rows is None)


def _step(nodes, graph, rows, p, mu, epsilon, source):
  kind, ratio = nodes.dtype, 2 * mu / p
  nodes, rows, graph = map(definition.wide, (nodes, rows, graph))
  column, row = nodes.swapaxes(1, 2), rows.swapaxes(1, 2)
  differences = column[:, :, None] - row[:, :, :, None]
  equal = (differences == 0).all(axis=-1)
  differences = jnp.where(equal[..., None], 1.0, differences)
  length = jnp.linalg.norm(jnp.sqrt(graph + epsilon)[..., None] * differences, axis=-1)
  length = jnp.where(equal, epsilon * nodes.shape[-1] ** 0.5, length)
  edges = graph * length ** (p - 2)
  degree = edges.sum(axis=-1, keepdims=True) + ratio
  degree = jnp.where(degree == 0, 1, degree)  # mu = 0, and no edge
  found = (edges / degree) @ column
  if source:
    found = found + ratio / degree * row
  return found.swapaxes(1, 2).astype(kind)


def reference_adaptive_pool(x, real=None, *, size):
  """Computes the means of `size` windows, one after the other."""
  B, S = x.shape[:2]
  real = jnp.ones((B, S), bool) if real is None else real
  order = jnp.argsort(~real, axis=1, stable=True)
  index = order.reshape(B, S, *(1,) * (x.ndim - 2))
  x = jnp.take_along_axis(definition.wide(x), index, axis=1)
  count = real.sum(axis=1)[:, None]
  place, means = jnp.arange(S)[None], []
  for i in range(size):
    first, end = i * count // size, -((-(i + 1) * count) // size)
    inside = (place >= first) & (place < end)
    share = inside / jnp.maximum(end - first, 1)
    means.append(jnp.einsum("bs,bs...->b...", share, x))
  return jnp.stack(means, axis=1)


def reference(
  q,
  k,
  nodes,
  rows=None,
  p=1.75,
  mu=0.1,
  *,
  kind="self",
  causal=False,
  offset=None,
  segment_ids=None,
  kv_segment_ids=None,
  scale=None,
  pool=0,
  pool_padding=False,
  epsilon=EPSILON,
):
  """Computes the definition: the weights of attention, pooled, as a graph."""
  T, S, N = q.shape[1], k.shape[1], q.shape[2]
  ids = {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids}
  seen = definition.visible(T, S, causal, offset, **ids)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  key = jnp.repeat(definition.wide(k), N // k.shape[2], axis=2)
  scores = scale * jnp.einsum("btnh,bsnh->bnts", definition.wide(q), key)
  graph, _ = definition.weights(scores, seen)
  if pool:
    ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    real = None if ids is None or pool_padding else ids >= 0
    graph = jnp.moveaxis(graph, 3, 1)  # (B, S, N, T)
    graph = jnp.moveaxis(reference_adaptive_pool(graph, real, size=pool), 1, 3)
  if kind == "self":
    places = jnp.arange(T) + (S - T if offset is None else offset)
    rows = jnp.take(nodes, places, axis=1)
  found = _step(nodes, graph, rows, p, mu, epsilon, kind == "self")
  if segment_ids is None:
    return found
  return jnp.where((segment_ids >= 0)[:, :, None, None], found, 0)
