"""The prefix softmax kernels' passes, as products of whole matrices."""

import jax.numpy as jnp


def forward(weights, values, start, *, tiles):
  """Returns (out, its last row): see `attnjax.core.recurrence.prefix.Form`."""
  del tiles
  weight, keep = _matrices(weights)
  out = jnp.einsum("btsn,bsne->btne", weight, values.astype(jnp.float32))
  out += keep[..., None] * start[:, None]
  return out.astype(values.dtype), out[:, -1]


def backward(weights, values, g, delta, a, b, *, tiles):
  """Returns (dscores, dvalues, A, b): see `attnjax.core.recurrence.prefix.Form`."""
  del tiles
  weight, keep = _matrices(weights)
  # The last state is one more result that is read from the last row.
  g = g.astype(jnp.float32).at[:, -1].add(a)
  delta = delta.at[:, -1].add(b)
  dvalues = jnp.einsum("btsn,btne->bsne", weight, g)
  dscores = (values.astype(jnp.float32) * dvalues).sum(axis=-1)
  dscores -= jnp.einsum("btsn,btn->bsn", weight, delta)
  a, b = (keep[..., None] * g).sum(axis=1), (keep * delta).sum(axis=1)
  return dscores, dvalues.astype(values.dtype), a, b


def _matrices(weights):
  """Returns (weights of tokens (B, T, T, N), of the initial state (B, T, N))."""
  T = weights.scores.shape[1]
  row, column = jnp.arange(T)[:, None], jnp.arange(T)
  seen, goes_on = column <= row, jnp.ones((1, T), bool)
  if weights.first is not None:
    seen = seen & (column >= weights.first[..., None])
    goes_on = weights.first < 0
  apart = weights.scores[:, None] - weights.top[:, :, None]
  weight = jnp.exp(jnp.where(seen[..., None], apart, -jnp.inf))
  top, total = (x[:, :1] for x in weights.before)
  share = weights.share
  keep = jnp.exp(jnp.minimum(top - weights.top, 0)) * total * share
  return weight * share[:, :, None], jnp.where(goes_on[..., None], keep, 0)
