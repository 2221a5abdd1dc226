"""The Charbonnier loss of maps, a smooth absolute error.

Pierre Charbonnier et al. Two deterministic half-quadratic regularization algorithms for
computed imaging. ICIP 1994. For restoration as in Wei-Sheng Lai et al. LapSRN.
arXiv:1704.03915, section 3.2, with epsilon = 1e-3:

  mean sqrt((output - target)^2 + epsilon^2)
"""

import jax
import jax.numpy as jnp

from experiments.training import fillers

EPSILON = 1e-3


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the losses, and the number of values.

  Args:
    outputs: (B, H, W, K).
    batch: with "target" of that shape.
  """
  there = fillers.real(batch["target"])[:, None, None, None]
  outputs, target = fillers.compared(outputs, batch["target"])
  losses = jnp.sqrt((outputs - target) ** 2 + EPSILON**2)
  return {
    "loss": jnp.sum(jnp.where(there, losses, 0)),
    "count": jnp.sum(jnp.broadcast_to(there, losses.shape), dtype=jnp.float32),
  }
