"""The definition: activation, two layer norms, product."""

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference(u, v, gain, shift, *, activation="gelu"):
  """Computes the definition, one branch after the other."""
  x = definition.wide(u)
  if activation == "gelu":
    x = x * (1 + jax.lax.erf(x / jnp.sqrt(2))) / 2
  elif activation == "silu":
    x = x / (1 + jnp.exp(-x))
  else:
    x = jnp.where(x > 0, x, 0)
  first = _norm(x, gain, shift)
  second = _norm(definition.wide(v), gain, shift)
  return (first * second).astype(v.dtype)


def _norm(x, gain, shift):
  mean = x.sum(axis=-1, keepdims=True) / x.shape[-1]
  variance = ((x - mean) ** 2).sum(axis=-1, keepdims=True) / x.shape[-1]
  normed = (x - mean) / jnp.sqrt(variance + 1e-5)
  return definition.wide(gain) * normed + definition.wide(shift)
