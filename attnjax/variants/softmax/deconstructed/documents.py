"""Documents of packed rows, and the places of tokens in them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def numbered(
  segment_ids: Int[Array, "B T"],
) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
  """Returns (the number of each token's document, its place there), both (B, T).

  A document is a run of equal ids. Padding, a negative id, has the number -1 and the
  place 0; inside a document it does not end it, and its place is counted.
  """
  real, index = segment_ids >= 0, jnp.arange(segment_ids.shape[1])[None]
  newest = jax.lax.cummax(jnp.where(real, index, -1), axis=1)
  before = jnp.pad(newest, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  last = jnp.take_along_axis(segment_ids, jnp.maximum(before, 0), axis=1)
  new = real & ((before < 0) | (last != segment_ids))
  number = jnp.where(real, jnp.cumsum(new, axis=1, dtype=jnp.int32) - 1, -1)
  start = jax.lax.cummax(jnp.where(new, index, 0), axis=1)
  return number, jnp.where(real, index - start, 0)
