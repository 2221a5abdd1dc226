"""The definition: every place is projected, weighed, summed and gated, as written."""

import jax.numpy as jnp

from attnjax.core import definition


def reference(
  x,
  channel_query,
  channel_value,
  up,
  spatial_query,
  spatial_value,
  *,
  variant="paper",
  layout="parallel",
  **more,
):
  """Computes the definition: two gates of x, or one of x and one of what it leaves."""
  wide = definition.wide(x)
  gate = reference_channel_gate(
    wide, channel_query, channel_value, up, variant=variant, **more
  )
  channels = wide * gate[:, None, None, :]
  seen = channels if layout == "sequential" else wide
  gate = reference_spatial_gate(seen, spatial_query, spatial_value, variant=variant)
  places = seen * gate[..., None]
  out = places if layout == "sequential" else channels + places
  return out.astype(x.dtype)


def reference_channel_gate(
  x,
  query,
  value,
  up,
  *,
  variant="paper",
  **more,
):
  """Computes the definition: a softmax over the places weighs the values of each."""
  x = definition.wide(x).reshape(x.shape[0], -1, x.shape[-1])
  weights, _ = definition.weights(jnp.einsum("bld,d->bl", x, definition.wide(query)))
  values = jnp.einsum("bld,df->blf", x, definition.wide(value))
  z = jnp.einsum("bl,blf->bf", weights, values)
  if variant == "code_s":
    z = z @ definition.wide(more["squeeze"]) + definition.wide(more["squeeze_bias"])
    z = _norm(z, more["gain"], more["shift"])
    z = jnp.where(z > 0, z, 0)
  z = z @ definition.wide(up)
  if variant == "code_s":
    z = z + definition.wide(more["up_bias"])
  if variant == "paper":
    z = _norm(z, more["gain"], more["shift"])
  return _sigmoid(z)


def reference_spatial_gate(x, query, value, *, variant="paper"):
  """Computes the definition: each place's value against the mean of all queries."""
  rows = definition.wide(x).reshape(x.shape[0], -1, x.shape[-1])
  queries = jnp.einsum("bld,df->blf", rows, definition.wide(query))
  mean = queries.sum(axis=1) / rows.shape[1]
  values = jnp.einsum("bld,df->blf", rows, definition.wide(value))
  if variant == "paper":
    mean, _ = definition.weights(mean)
  if variant == "code_s":
    values = definition.weights(values.swapaxes(1, 2))[0].swapaxes(1, 2)
  scores = jnp.einsum("bf,blf->bl", mean, values)
  if variant == "code_p":
    scores, _ = definition.weights(scores)
  return _sigmoid(scores).reshape(x.shape[:-1])


def _norm(z, gain, shift):
  far = z - z.sum(axis=-1, keepdims=True) / z.shape[-1]
  variance = (far**2).sum(axis=-1, keepdims=True) / z.shape[-1]
  normed = far / jnp.sqrt(variance + 1e-5)
  return definition.wide(gain) * normed + definition.wide(shift)


def _sigmoid(z):
  return (1 + jnp.tanh(z / 2)) / 2
