"""Third-order attention of one query at a time, for derivatives of any order."""

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.third_order.sight import Sight, folded, unfolded


def by_rows(x, data, *, sight: Sight):
  """Computes (out, top, total) of x = (q, k1, k2, v1, v2) in O(S^2) memory a head.

  top has no derivative, as in `attnjax.core.third_order.gradients`.
  """
  q, k1, k2, v1, v2 = x
  (_, T, N, _), K = q.shape, k1.shape[2]
  wide = accumulator_dtype(q)
  rows = folded(q.astype(wide), K).swapaxes(0, 1) * sight.scale
  keys = [folded(y.astype(wide), K) for y in (k1, k2, v1, v2)]
  ids, offset = data
  start = sight.offset if offset is None else offset
  places = start + jnp.arange(T * (N // K)) // (N // K)

  @jax.checkpoint
  def one(given):
    return _row(sight, keys, ids, given)

  own = None if ids is None else jnp.repeat(ids[0].T, N // K, axis=0)
  found = jax.lax.map(one, (rows, places, own))
  out, top, total = (unfolded(y.swapaxes(0, 1), q) for y in found)
  return out.astype(v1.dtype), top, total


def _row(sight: Sight, keys, ids, given):
  """Computes (out, top, total) of a row (U, H) of each head."""
  (k1, k2, v1, v2), (row, place, own) = keys, given
  score = jnp.einsum("uh,ujh,ulh->ujl", row, k1, k2)
  for stream in (0, 1):
    shape = (1, -1, 1) if stream == 0 else (1, 1, -1)
    seen = sight.seen(place, jnp.arange(k1.shape[1]), stream)
    if seen is not None:
      score = jnp.where(seen.reshape(shape), score, -jnp.inf)
    if ids is not None:
      same = (ids[1] == own[:, None]) & (ids[1] >= 0)
      same = jnp.repeat(same, k1.shape[0] // same.shape[0], axis=0)
      same = jnp.expand_dims(same, 2 - stream)
      score = jnp.where(same, score, -jnp.inf)
  top = jax.lax.stop_gradient(score.max(axis=(1, 2), initial=-jnp.inf))
  top = jnp.where(top == -jnp.inf, 0, top)
  weight = jnp.exp(score - top[:, None, None])
  total = weight.sum(axis=(1, 2))
  out = jnp.einsum("ujl,ujv,ulv->uv", weight, v1, v2)
  return out / jnp.where(total == 0, 1, total)[:, None], top, total
