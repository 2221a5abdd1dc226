"""The definition: products of Gaussian densities, chunk by chunk, normalised."""

import jax.numpy as jnp

from attnjax.core import definition


def reference(
  x,
  displacement,
  spread,
  *,
  axis=-1,
  segment_ids=None,
  valid=None,
  padding_value=None,
  clamp=False,
  return_weights=False,
):
  """Computes the definition, with a matrix of which entries share a chunk."""
  z = jnp.moveaxis(definition.wide(x), axis, -1)
  S, M = z.shape[-1], displacement.shape[0]
  shape = (1, S) if segment_ids is None and valid is None else (z.shape[0], S)
  document = definition.documents(segment_ids, valid, shape)
  chunk, number, head = _chunks(document, M)
  real = document >= 0

  def wide(y):
    return y.reshape(y.shape[0], *(1,) * (z.ndim - 2), *y.shape[1:])

  chunk, number, head, real = wide(chunk), wide(number), wide(head), wide(real)
  z = jnp.where(real, z, 0)
  known = z if padding_value is None else jnp.where(z == padding_value, 0, z)
  mean = (chunk * known[..., None, :]).sum(-1) / number
  square = (chunk * (known[..., None, :] - mean[..., None]) ** 2).sum(-1)
  deviation = jnp.sqrt(square / jnp.maximum(number - 1, 1) + 1e-8)
  log = jnp.zeros(z.shape)
  for k in range(displacement.shape[1]):
    c, far = (
      definition.wide(spread)[:, k][head],
      definition.wide(displacement)[:, k][head],
    )
    y = (z - mean - far) / deviation
    log += -(y**2) / (2 * c**2) - 0.5 * jnp.log(2 * jnp.pi * c**2)
  weights, total = definition.weights(
    jnp.broadcast_to(log[..., None, :], (*log.shape, S)), chunk
  )
  weights = (weights * jnp.eye(S)).sum(-1)
  if clamp:
    total = jnp.where(jnp.isfinite(total), total, 0)
    weights = jnp.where(real, jnp.exp(log - jnp.maximum(total, jnp.log(1e-8))), 0)
  out = z * weights
  if padding_value is not None:
    out = jnp.where(z == padding_value, z, out)
  out = jnp.moveaxis(out, -1, axis).astype(x.dtype)
  return (out, jnp.moveaxis(weights, -1, axis)) if return_weights else out


def _chunks(document, heads):
  """Returns which entries share a chunk, how many do, and whose head's it is."""
  real = document >= 0
  # Of each entry: those that share its document, and how many of these are before it.
  mates = (document[:, :, None] == document[:, None, :]) & real[:, None, :]
  entries = range(document.shape[1])
  rank = jnp.stack([mates[:, t, :t].sum(-1) for t in entries], axis=-1)
  size = jnp.maximum(mates.sum(-1) // heads, 1)
  head = jnp.minimum(rank // size, heads - 1)
  chunk = mates & (head[:, :, None] == head[:, None, :]) & real[:, :, None]
  return chunk, jnp.maximum(chunk.sum(-1), 1), head
