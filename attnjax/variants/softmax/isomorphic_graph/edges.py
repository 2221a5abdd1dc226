"""The edges of the graph: weights of pairs of tokens, and what sharpens them.

Pairs that are not seen are no edges: their weight is 0 after every transform, also
where a transform of 0 is not 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.core import select
from attnjax.core.dtypes import accumulator_dtype

WEIGHTINGS = ("softmax", "relu")
Transform = Callable[[Any, Any, float, float], Any]


def _above(a, t):
  return (a > t).astype(a.dtype)


# (weight, threshold, beta, binary_scale) to the weight of an edge.
ELEMENTWISE: dict[str, Transform] = {
  "none": lambda a, t, beta, scale: a,
  "silu": lambda a, t, beta, scale: jax.nn.silu(a - t),
  "relu": lambda a, t, beta, scale: jax.nn.relu(a - t),
  "softplus": lambda a, t, beta, scale: jax.nn.softplus(a - t),
  "sharp_softplus": lambda a, t, beta, scale: jax.nn.softplus(beta * (a - t)) / beta,
  "sigmoid": lambda a, t, beta, scale: jax.nn.sigmoid(beta * (a - t)),
  "flow": lambda a, t, beta, scale: (
    jax.nn.sigmoid(5.0 * a) * jax.nn.sigmoid(50.0 * (a - t))
  ),
  "binary": lambda a, t, beta, scale: _above(a, t),
  "silu_binary": lambda a, t, beta, scale: jax.nn.silu(a - t) + scale * _above(a, t),
  "silu_below": lambda a, t, beta, scale: jnp.where(a > t, 1, jax.nn.silu(a - t)),
  "relu_below": lambda a, t, beta, scale: jnp.where(a > t, 1, jax.nn.relu(a - t)),
  "softplus_below": lambda a, t, beta, scale: jnp.where(
    a > t, 1, jax.nn.softplus(a - t)
  ),
}
EDGES = (*ELEMENTWISE, "top_k", "scaled_top_k")


def visible(
  T: int, S: int, first: Any, offset: Any, ids: Any, kv_ids: Any
) -> Bool[Array, "#B 1 T S"]:
  """Returns which keys the queries first, first + 1, ... see.

  Args:
    T: queries.
    S: keys.
    first: number of the first query.
    offset: query t sees keys s <= t + offset.
    ids: segments of these queries, or None.
    kv_ids: segments of the keys, or None.
  """
  places = jnp.asarray(first + offset, jnp.int32) + jnp.arange(T, dtype=jnp.int32)
  seen = (jnp.arange(S, dtype=jnp.int32)[None] <= places[:, None])[None, None]
  if ids is not None:
    same = (ids[:, :, None] == kv_ids[:, None]) & (ids >= 0)[:, :, None]
    seen = seen & same[:, None]
  return seen


def weights(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S N H"],
  seen: Bool[Array, "#B 1 T S"],
  *,
  scale: float,
  weighting: str,
) -> Float[Array, "B N T S"]:
  """Returns softmax(scale q . k), or its positive part with `weighting` "relu"."""
  wide = accumulator_dtype(q)
  score = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=wide)
  score = scale * score.astype(wide)
  if weighting == "relu":
    return jnp.where(seen, jax.nn.relu(score), 0)
  score = jnp.where(seen, score, -jnp.inf)
  most = jax.lax.stop_gradient(score.max(axis=-1, keepdims=True))
  most = jnp.where(most > -jnp.inf, most, 0)
  part = jnp.where(seen, jnp.exp(jnp.where(seen, score, 0) - most), 0)
  total = part.sum(axis=-1, keepdims=True)
  return part / jnp.where(total > 0, total, 1)


def transformed(
  a: Float[Array, "B N T S"],
  seen: Bool[Array, "#B 1 T S"],
  itself: Bool[Array, "T S"],
  threshold: Float[Array, ""] | float,
  *,
  edges: str,
  beta: float,
  keep_keys: int,
  keep_ratio: float,
  binary_scale: float,
) -> Float[Array, "B N T S"]:
  """Returns the weights of the edges, f(a) where a pair is seen.

  Args:
    a: weights of all pairs.
    seen: which pairs there are.
    itself: which key is the query's own token.
    threshold: t of f.
    edges: one of EDGES; the last two give 1 to the greatest weights: "top_k" to
      `keep_keys` of a row, "scaled_top_k" to `keep_ratio` of the earlier tokens, at
      least one, among the weights of t and more.
    beta: of "sharp_softplus" and "sigmoid".
    keep_keys: see `edges`.
    keep_ratio: see `edges`.
    binary_scale: of the step in "silu_binary".
  """
  if edges in ELEMENTWISE:
    return jnp.where(seen, ELEMENTWISE[edges](a, threshold, beta, binary_scale), 0)
  if edges == "top_k":
    return select.kept(a, jnp.broadcast_to(seen, a.shape), keep_keys).astype(a.dtype)
  earlier = seen & ~itself[None, None]
  number = earlier.sum(axis=-1, dtype=jnp.int32)[..., None]
  counts = np.ceil(keep_ratio * np.arange(a.shape[-1] + 1) - 1e-9)
  count = jnp.asarray(np.maximum(counts, 1), jnp.int32)[number]
  strong = earlier & (a >= threshold)
  score = jax.lax.stop_gradient(jnp.where(strong, a, -jnp.inf))
  rank = jnp.argsort(jnp.argsort(-score, axis=-1, stable=True), axis=-1)
  return (strong & (rank < count)).astype(a.dtype)
