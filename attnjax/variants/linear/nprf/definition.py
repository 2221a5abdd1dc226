"""The definition: one (T, T) matrix of weights for each head, from the formula."""

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import definition


def reference(
  q,
  k,
  v,
  bias=None,
  w=None,
  causal=False,
  feature_map="positive",
  normalise=True,
  scale=None,
  segment_ids=None,
  valid=None,
  positions=None,
):
  """Computes the definition: one (T, T) matrix of weights for each head."""
  B, grid, (N, H), shape, kind = (
    q.shape[0],
    q.shape[1:-2],
    q.shape[-2:],
    v.shape,
    v.dtype,
  )
  T = int(np.prod(grid))
  if scale is None:
    scale = 1.0 if normalise else H**-0.5
  q, k, v = (definition.wide(x).reshape(B, T, N, -1) for x in (q, k, v))
  seen = jnp.ones((1, T, T), bool)
  if segment_ids is not None or valid is not None:
    document = definition.documents(segment_ids, valid, (B, T))
    real = document >= 0
    q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
    seen = (document[:, :, None] == document[:, None]) & real[:, None]
  q, k = ((_unit(x) if normalise else x) * scale**0.5 for x in (q, k))
  logs, product = _similarity(q, k, w, feature_map)
  places = [axis.reshape(1, T) for axis in np.indices(grid)]
  if positions is not None:
    places = [jnp.atleast_2d(positions)]
  lags = [place[:, None, :] - place[:, :, None] for place in places]  # key - query
  if causal:
    seen = seen & jnp.tril(jnp.ones((T, T), bool)) & (lags[0] <= 0)
  if bias is not None:
    far = [(size - 1) // 2 for size in bias.shape[1:]]
    index = tuple(jnp.clip(lag, -d, d) + d for lag, d in zip(lags, far))
    logs = logs + jnp.moveaxis(definition.wide(bias)[:, *index], 0, 1)
  logs = jnp.where(seen[:, None], logs, -jnp.inf)
  top = jax.lax.stop_gradient(logs.max(axis=3, keepdims=True))
  weight = jnp.exp(logs - jnp.where(top > -jnp.inf, top, 0)) * product
  total = weight.sum(axis=3)
  weight = weight / jnp.where(total == 0, 1, total)[..., None]
  return jnp.einsum("bnts,bsne->btne", weight, v).astype(kind).reshape(shape)


def _unit(x):
  """Divides by the length, whose square may overflow or underflow; 0 stays 0."""
  largest = jax.lax.stop_gradient(abs(x).max(axis=-1, keepdims=True))
  x = x / jnp.where(largest > 0, largest, 1)
  square = (x * x).sum(axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.where(square > 0, square, 1))


def _similarity(q, k, w, kind):
  """Returns (logs, product), both (B, N, T, T): weights are exp(logs) product."""
  if kind in ("elu", "relu"):
    features = {"elu": lambda x: jax.nn.elu(x) + 1, "relu": jax.nn.relu}[kind]
    return 0.0, jnp.einsum("btnf,bsnf->bnts", features(q), features(k))
  w = jnp.broadcast_to(definition.wide(w), (q.shape[2], *w.shape[-2:]))
  angle_q, angle_k = (jnp.einsum("btnh,nmh->bntm", x, w) for x in (q, k))
  half_q, half_k = ((x * x).sum(axis=3).swapaxes(1, 2) / 2 for x in (q, k))
  if kind == "positive":  # the product of both exponentials, summed over the features
    pairs = angle_q[:, :, :, None] + angle_k[:, :, None]
    mean = jax.nn.logsumexp(pairs, axis=4) - jnp.log(w.shape[1])
    return mean - half_q[..., None] - half_k[:, :, None], 1.0
  # sin a sin b + cos a cos b
  cosine = jnp.cos(angle_q[:, :, :, None] - angle_k[:, :, None]).mean(axis=4)
  return half_k[:, :, None], cosine
