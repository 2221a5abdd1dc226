"""Definitions of the functions: the equations on whole arrays (B, T, S, H)."""

import jax.numpy as jnp


def reference_pointer_logits(
  keys, queries, vector=None, *, valid=None, mask=None, clip=0.0
):
  """Computes the scores of all inputs for all steps; see `pointer_logits`."""
  if valid is not None:
    keys = jnp.where(valid[:, :, None], keys, 0)
  e = keys.astype(jnp.float32)[:, None]  # (B, 1, S, H)
  d = queries.astype(jnp.float32)[:, :, None]  # (B, T, 1, H)
  if vector is None:
    u = (e * d).sum(3) / jnp.sqrt(float(keys.shape[2]))
  else:
    u = jnp.tanh(e + d) @ vector.astype(jnp.float32)
  if clip > 0:
    u = clip * jnp.tanh(u)
  if valid is not None:
    u = jnp.where(valid[:, None, :], u, -jnp.inf)
  return u if mask is None else jnp.where(mask, u, -jnp.inf)


def reference_pointer_loss(
  keys, queries, vector=None, *, targets, valid=None, mask=None, clip=0.0
):
  """Computes -ln of the target's part of the sum of exponentials."""
  logits = reference_pointer_logits(
    keys, queries, vector, valid=valid, mask=mask, clip=clip
  )
  _, total = _parts(logits)
  hit = targets[..., None] == jnp.arange(logits.shape[-1])
  able = (hit & jnp.isfinite(logits)).any(-1)
  top = jnp.max(jnp.where(jnp.isfinite(logits), logits, -1e30), -1)
  own = jnp.sum(jnp.where(hit & jnp.isfinite(logits), logits, 0), -1)
  loss = jnp.where(able, jnp.log(jnp.where(able, total, 1)) + top - own, jnp.inf)
  return jnp.where(targets < 0, 0.0, loss)


def reference_glimpse(keys, queries, vector=None, *, valid=None, mask=None, clip=0.0):
  """Averages the keys by exponentials over their sum; zeros where all are hidden."""
  logits = reference_pointer_logits(
    keys, queries, vector, valid=valid, mask=mask, clip=clip
  )
  if valid is not None:
    keys = jnp.where(valid[:, :, None], keys, 0)
  each, total = _parts(logits)
  weights = each / jnp.where(total > 0, total, 1)[..., None]
  mean = (weights[..., None] * keys[:, None].astype(jnp.float32)).sum(2)
  return mean.astype(keys.dtype)


def _parts(logits):
  """Returns the exponentials of a row over its largest one, and their sum."""
  able = jnp.isfinite(logits)
  top = jnp.max(jnp.where(able, logits, -1e30), axis=-1, keepdims=True)
  each = jnp.where(able, jnp.exp(jnp.where(able, logits - top, 0)), 0)
  return each, each.sum(-1)
