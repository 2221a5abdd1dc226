"""CoLLM's functions as the paper writes them, or by another formula."""

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference_slerp(a, b, alpha=0.5):
  """Computes cos(alpha theta) a + sin(alpha theta) u, u orthogonal to a towards b."""
  kind, (a, b) = jnp.result_type(a, b), map(_unit, (a, b))
  cosine = (a * b).sum(axis=-1, keepdims=True)
  side = b - cosine * a
  sine = jnp.sqrt((side**2).sum(axis=-1, keepdims=True))
  angle = alpha * jnp.arctan2(sine, cosine)
  return (jnp.cos(angle) * a + jnp.sin(angle) * side / sine).astype(kind)


def reference_nearest_in_batch(v, exclude=None):
  """Sorts the other vectors of each by their cosines, and takes the first."""
  x = _unit(definition.wide(jax.lax.stop_gradient(v)))
  cosine = (x[:, None] * x[None]).sum(axis=-1)
  other = ~jnp.eye(v.shape[0], dtype=bool)
  if exclude is not None:
    other &= ~exclude
  order = jnp.argsort(jnp.where(other, -cosine, jnp.inf), axis=1, stable=True)
  return jnp.where(other.any(axis=1), order[:, 0], -1).astype(jnp.int32)


def reference_pool_last(hidden, valid=None):
  """Goes from token to token and keeps the last real one."""
  found = jnp.zeros_like(hidden[:, 0])
  for t in range(hidden.shape[1]):
    real = jnp.ones(hidden.shape[:1], bool) if valid is None else valid[:, t]
    found = jnp.where(real[:, None], hidden[:, t], found)
  return found


def reference_info_nce(q, t, log_scale, mask=None, tile=0):
  """Computes the mean of -log of the right share, row by row and column by column."""
  del tile  # all pairs are stored
  logits = (
    jnp.exp(definition.wide(log_scale)) * definition.wide(q) @ definition.wide(t).T
  )
  seen = jnp.ones(logits.shape, bool) if mask is None else mask
  seen |= jnp.eye(logits.shape[0], dtype=bool)
  rows = definition.weights(logits, seen)[0]
  columns = definition.weights(logits.T, seen.T)[0]
  return -(jnp.log(jnp.diag(rows)) + jnp.log(jnp.diag(columns))).mean() / 2


def _unit(x):
  x = definition.wide(x)
  return x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True))
