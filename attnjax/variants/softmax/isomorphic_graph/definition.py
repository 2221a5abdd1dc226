"""The definitions: whole matrices of edges, and maxima over all pairs."""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference(
  q,
  k,
  v,
  second_q=None,
  second_k: Any = None,
  own=None,
  epsilon=None,
  mixing: Any = None,
  threshold=0.2,
  *,
  kind="gin",
  scale=None,
  weighting="softmax",
  edges="none",
  as_released=False,
  **more,
):
  """Computes the definition; the arguments are those of `attend`."""
  rest = {n: more.pop(n, None) for n in ("offset", "segment_ids", "kv_segment_ids")}
  T, S = q.shape[1], k.shape[1]
  rest["offset"] = S - T if rest["offset"] is None else rest["offset"]
  seen = jnp.broadcast_to(
    definition.visible(T, S, True, **rest), (q.shape[0], q.shape[2], T, S)
  )
  some = seen.any(axis=2).swapaxes(1, 2)[..., None]
  k, v = jnp.where(some, k, 0), jnp.where(some, v, 0)
  value = definition.wide(v)
  itself = jnp.arange(S) == rest["offset"] + jnp.arange(T)[:, None]
  own = value if own is None else definition.wide(own)
  a = _weights(q, k, seen, scale, weighting)
  if second_q is not None:
    second = _weights(second_q, jnp.where(some, second_k, 0), seen, scale, weighting)
    a = a - mixing * second
  adjacency = _edges(a, seen, itself, threshold, edges, **more)
  if kind == "gin":
    out = jnp.einsum("bnts,bsnv->btnv", adjacency, value)
    out = out if epsilon is None else out + epsilon[:, None] * own
    return out.astype(v.dtype)
  near = seen if (edges, weighting) == ("none", "softmax") else adjacency > 0
  if kind == "pna_lm":
    near = _strong(adjacency, seen, threshold, as_released)
  return _four(kind, adjacency, value, own, near, as_released).astype(v.dtype)


def _strong(adjacency, seen, threshold, as_released):
  """Returns the neighbours whose edge is above the threshold."""
  near = (adjacency > threshold) & seen
  if not as_released:
    return near
  # The first token that is seen, where no edge is strong enough but there are some.
  first = seen & (jnp.cumsum(seen, -1) == 1)
  first = first & (adjacency.sum(-1, keepdims=True) != 0)
  return jnp.where(near.any(-1, keepdims=True), near, first)


def _four(kind, adjacency, value, own, near, as_released):
  """Returns the four aggregates of a kind."""
  out = jnp.einsum("bnts,bsnv->btnv", adjacency, value)
  degree = adjacency.sum(-1).swapaxes(1, 2)[..., None]
  degree = jnp.where(degree == 0, 1, degree)
  square = jnp.einsum("bnts,bsnv->btnv", adjacency, value**2) / degree
  mean = out / degree
  spread = jnp.maximum(square - mean**2, 0)
  if kind == "pna":
    most = own if as_released else _most(near, value, own)
    return jnp.concatenate([out, mean, most, spread], -1)
  long, short = (_by_norm(near, value, own, sign) for sign in (1, -1))
  return jnp.concatenate([mean, long, spread, short], -1)


def _weights(q, k, seen, scale, weighting):
  scale = q.shape[3] ** -0.5 if scale is None else scale
  score = scale * jnp.einsum("btnh,bsnh->bnts", definition.wide(q), definition.wide(k))
  if weighting == "relu":
    return jnp.where(seen, jnp.maximum(score, 0), 0)
  return definition.weights(score, seen)[0]


def _edges(
  a, seen, itself, t, edges, *, beta=10.0, keep_keys=8, keep_ratio=0.1, binary_scale=1.0
):
  """Returns f(a) by its formula, 0 where a pair is not seen."""
  x, above = a - t, a > t
  sigmoid, softplus = jax.nn.sigmoid, lambda x: jnp.logaddexp(x, 0.0)
  earlier = seen & ~itself
  strong = earlier & (a >= t)
  count = jnp.ceil(keep_ratio * earlier.sum(-1, keepdims=True) - 1e-4)
  count = jnp.maximum(count, 1)
  table = {
    "none": lambda: a,
    "silu": lambda: x * sigmoid(x),
    "relu": lambda: jnp.maximum(x, 0),
    "softplus": lambda: softplus(x),
    "sharp_softplus": lambda: softplus(beta * x) / beta,
    "sigmoid": lambda: sigmoid(beta * x),
    "flow": lambda: sigmoid(5 * a) * sigmoid(50 * x),
    "binary": lambda: 1.0 * above,
    "silu_binary": lambda: x * sigmoid(x) + binary_scale * above,
    "silu_below": lambda: jnp.where(above, 1, x * sigmoid(x)),
    "relu_below": lambda: jnp.where(above, 1, jnp.maximum(x, 0)),
    "softplus_below": lambda: jnp.where(above, 1, softplus(x)),
    "top_k": lambda: 1.0 * definition.best(a, seen, keep_keys),
    "scaled_top_k": lambda: 1.0 * strong * (_before(a, strong) < count),
  }
  return jnp.where(seen, table[edges](), 0)


def _before(a, some):
  """Returns how many of some pairs of a row are greater, or equal and earlier."""
  s = jnp.arange(a.shape[-1])
  one, other = a[..., :, None], a[..., None, :]
  ahead = (other > one) | ((other == one) & (s < s[:, None]))
  return (ahead & some[..., None, :]).sum(-1)


def _most(near, value, own):
  """Returns the greatest value over the neighbours; (B, N, T, S, V) numbers."""
  pairs = value.swapaxes(1, 2)[:, :, None]
  most = jnp.where(near[..., None], pairs, -jnp.inf).max(axis=3).swapaxes(1, 2)
  return jnp.where(near.any(-1).swapaxes(1, 2)[..., None], most, own)


def _by_norm(near, value, own, sign):
  """Returns the neighbour's vector of the greatest norm, or of the least with -1."""
  norm = sign * (value**2).sum(-1).swapaxes(1, 2)[:, :, None]
  chosen = definition.best(jnp.broadcast_to(norm, near.shape), near, 1)
  found = jnp.einsum("bnts,bsnv->btnv", 1.0 * chosen, value)
  return jnp.where(near.any(-1).swapaxes(1, 2)[..., None], found, own)


def reference_messages(
  q,
  k,
  u,
  *,
  combine="sum",
  sharpness=10.0,
  threshold=0.1,
  least=0.6,
  any_temperature=10.0,
  self_loops=True,
  scale=None,
  as_released=False,
  **seen,
):
  """Computes the definition of `messages`: one matrix of edges for all heads."""
  T, S = q.shape[1], k.shape[1]
  offset = seen.get("offset")
  offset = S - T if offset is None else offset
  visible = jnp.broadcast_to(
    definition.visible(T, S, True, **seen), (q.shape[0], 1, T, S)
  )
  some = visible.any(axis=2)[:, 0]
  k, u = jnp.where(some[:, :, None, None], k, 0), jnp.where(some[..., None], u, 0)
  a = _weights(q, k, visible, scale, "softmax")
  rate = {
    "sum": lambda: jnp.minimum(a.sum(1), 1),
    "mean": lambda: a.mean(1),
    "any": lambda: jax.nn.sigmoid((a - threshold) / any_temperature).max(1),
  }[combine]()
  if sharpness:
    rate = 1 / (1 + jnp.exp(-sharpness * (rate - threshold)))
  itself = jnp.arange(S) == offset + jnp.arange(T)[:, None]
  edge = visible[:, 0] & (rate > least)
  edge = edge & itself if as_released else edge
  edge = edge if self_loops else edge & ~itself
  out = jnp.einsum("bts,bse->bte", jnp.where(edge, rate, 0), definition.wide(u))
  return out.astype(u.dtype)
