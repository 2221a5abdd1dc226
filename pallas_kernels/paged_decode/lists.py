"""Lists of pages, as both kernels read them."""

import jax.numpy as jnp
from jaxtyping import Array, Int


def visited(counts: Int[Array, "*B M"]) -> Int[Array, "*B"]:
  """Returns the number of pages of each list up to its last one that has a token."""
  number = jnp.arange(1, counts.shape[-1] + 1, dtype=jnp.int32)
  return jnp.where(counts > 0, number, 0).max(axis=-1, initial=0)
