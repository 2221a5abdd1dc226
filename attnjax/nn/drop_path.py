"""Stochastic depth: residual branches dropped at random in training.

Gao Huang et al. Deep Networks with Stochastic Depth. 2016. arXiv:1603.09382.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def drop(
  y: Float[Array, "B ..."], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "B ..."]:
  """Drops y of each example with probability `rate`, and scales up the others.

  Without a key it returns y.
  """
  if key is None or not rate:
    return y
  kept = jax.random.bernoulli(key, 1 - rate, (y.shape[0],) + (1,) * (y.ndim - 1))
  return jnp.where(kept, y / (1 - rate), 0).astype(y.dtype)
