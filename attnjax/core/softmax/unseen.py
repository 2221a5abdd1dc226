"""Isolation of NaN and infinity in tokens from the queries that do not see them.

A product with weights of 0 would spread them: 0 NaN is NaN. So products that sum over
tokens read cleaned arrays, and a key whose value has a NaN or an infinity has NaN as
its score: a query that sees it gets NaN, the others nothing.
"""

import jax.numpy as jnp


def clean(x):
  """Replaces NaN and infinity by 0."""
  return jnp.where(jnp.isfinite(x), x, 0)


def infected(k, v):
  """Returns the keys (B, S, K, H), NaN where the value (B, S, K, V) is not finite."""
  fine = jnp.isfinite(v).all(axis=-1, keepdims=True)
  return jnp.where(fine, k, jnp.asarray(jnp.nan, k.dtype))
