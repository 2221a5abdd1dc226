"""NaN and infinity in what nobody sees do not reach what is seen.

A product with weights of 0 would spread them: 0 NaN is NaN. So products that add up
over tokens read numbers that are cleaned, and a key whose value has a NaN or an
infinity has NaN as its score: a query that sees it gets NaN, the others nothing.
"""

import jax.numpy as jnp


def clean(x):
  """The array with 0 for NaN and infinity."""
  return jnp.where(jnp.isfinite(x), x, 0)


def infected(k, v):
  """The keys (B, S, K, H), NaN where the value (B, S, K, V) is not finite."""
  fine = jnp.isfinite(v).all(axis=-1, keepdims=True)
  return jnp.where(fine, k, jnp.asarray(jnp.nan, k.dtype))
