"""The types in which scores, states and sums are computed."""

import jax.numpy as jnp
from jaxtyping import Array


def accumulator_dtype(x: Array) -> jnp.dtype:
  """Returns the type of scores and sums: float64 for float64, else float32."""
  return jnp.promote_types(x.dtype, jnp.float32)
