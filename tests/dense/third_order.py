"""The third-order kernels' passes, as products of whole arrays of scores."""

import functools

import jax
import jax.numpy as jnp


def forward(q, k1, k2, v1, v2, data, *, sight, tiles):
  """Returns (out, top, total): see `attnjax.core.third_order.gradients`."""
  del tiles
  score = _scores(q, k1, k2, data, sight)
  top = score.max(axis=(3, 4))
  top = jnp.where(top == -jnp.inf, 0, top)
  out, total = _sums(sight, data, top, q, k1, k2, v1, v2)
  return out.astype(v1.dtype), top.swapaxes(1, 2), total


def backward(q, k1, k2, v1, v2, g, top, share, delta, data, *, sight, tiles):
  """Returns the gradients: see `attnjax.core.third_order.gradients`."""
  del tiles
  sums = functools.partial(_sums, sight, data, top.swapaxes(1, 2))
  (out, _), pull = jax.vjp(sums, q, k1, k2, v1, v2)
  return pull((g.astype(out.dtype), share * ((g * out).sum(axis=-1) - delta)))


def _sums(sight, data, top, q, k1, k2, v1, v2):
  """Returns (out, total) of scores from which `top` is subtracted."""
  group = q.shape[2] // k1.shape[2]
  score = _scores(q, k1, k2, data, sight)
  weight = jnp.exp(score - top[..., None, None])
  total = weight.sum(axis=(3, 4))
  share = 1 / jnp.where(total == 0, 1, total)
  v1, v2 = (jnp.repeat(x.astype(jnp.float32), group, axis=2) for x in (v1, v2))
  out = jnp.einsum("bntjl,bjnv,blnv->bntv", weight, v1, v2) * share[..., None]
  return out.swapaxes(1, 2), total.swapaxes(1, 2)


def _scores(q, k1, k2, data, sight):
  """Returns the scores (B, N, T, S, S), -inf where a pair is not seen."""
  (ids, offset), group = data, q.shape[2] // k1.shape[2]
  q, k1, k2 = (x.astype(jnp.float32) for x in (q, k1, k2))
  k1, k2 = (jnp.repeat(x, group, axis=2) for x in (k1, k2))
  score = sight.scale * jnp.einsum("btnh,bjnh,blnh->bntjl", q, k1, k2)
  place = jnp.arange(q.shape[1])[:, None] + (sight.offset if offset is None else offset)
  for stream, axis in ((0, 4), (1, 3)):
    seen = sight.seen(place, jnp.arange(k1.shape[1])[None], stream)
    if seen is not None:
      score = jnp.where(jnp.expand_dims(seen[None, None], axis), score, -jnp.inf)
    if ids is not None:
      same = (ids[0][:, :, None] == ids[1][:, None]) & (ids[1] >= 0)[:, None]
      score = jnp.where(jnp.expand_dims(same[:, None], axis), score, -jnp.inf)
  return score
