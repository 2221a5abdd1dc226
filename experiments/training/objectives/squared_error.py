"""The mean square of the error of maps."""

import jax
import jax.numpy as jnp

from experiments.training import fillers


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of squares, and the number of values.

  Args:
    outputs: (B, H, W, K).
    batch: with "target" of that shape.
  """
  there = fillers.real(batch["target"])[:, None, None, None]
  outputs, target = fillers.compared(outputs, batch["target"])
  losses = (outputs - target) ** 2
  return {
    "loss": jnp.sum(jnp.where(there, losses, 0)),
    "count": jnp.sum(jnp.broadcast_to(there, losses.shape), dtype=jnp.float32),
  }
