"""Dropout: units that are set to 0 at random in training.

Nitish Srivastava et al. Dropout: A Simple Way to Prevent Neural Networks from
Overfitting. Journal of Machine Learning Research 15, 2014.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def drop(
  x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "..."]:
  """Sets each unit to 0 with probability `rate`, and scales up the others.

  Without a key it returns x.
  """
  if key is None or not rate:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
