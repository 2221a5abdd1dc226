"""The mean square of the error of maps."""

import jax
import jax.numpy as jnp


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of squares, and the number of values.

  Args:
    outputs: (B, H, W, K).
    batch: with "target" of that shape.
  """
  error = outputs.astype(jnp.float32) - batch["target"].astype(jnp.float32)
  return {
    "loss": jnp.sum(error**2),
    "count": jnp.asarray(error.size, jnp.float32),
  }
