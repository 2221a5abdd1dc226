"""Vectors of length 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype


def unit(x: Float[Array, "*R D"]) -> Float[Array, "*R D"]:
  """Divides by the length, in float32; a zero stays zero."""
  x = x.astype(accumulator_dtype(x))
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1))
