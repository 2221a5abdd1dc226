"""Examples that only fill the last batch of a split: nothing of theirs is counted.

Their labels are -1, and their maps to be hit NaN, see `experiments.data.pipeline`.
"""

import jax
import jax.numpy as jnp


def real(target: jax.Array) -> jax.Array:
  """Returns which examples of maps (B, H, W, K) are real, (B,): not NaN throughout."""
  return ~jnp.isnan(target).all(axis=(1, 2, 3))


def compared(outputs: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns outputs and maps to be hit in float32, equal in examples that only fill."""
  outputs = outputs.astype(jnp.float32)
  there = real(target)[:, None, None, None]
  return outputs, jnp.where(there, target.astype(jnp.float32), outputs)
