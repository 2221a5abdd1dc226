"""The share of heat maps whose peak is at most 2 pixels from that of the target."""

import jax
import jax.numpy as jnp

from experiments.training import fillers

BETTER = max
PIXELS = 2.0


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of near peaks and of heat maps; both arrays (B, H, W, K)."""
  found, wanted = _peaks(outputs), _peaks(batch["target"])
  apart = jnp.sum((found - wanted) ** 2, axis=0)
  there = jnp.broadcast_to(fillers.real(batch["target"])[:, None], apart.shape)
  return {
    "near": jnp.sum(there & (apart <= PIXELS**2), dtype=jnp.float32),
    "peaks": jnp.sum(there, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns near peaks over heat maps."""
  return totals["near"] / max(totals["peaks"], 1.0)


def _peaks(maps):
  """Returns the row and column (2, B, K) of the largest value of each map."""
  B, H, W, K = maps.shape
  place = jnp.argmax(maps.reshape(B, H * W, K), axis=1)
  return jnp.stack([place // W, place % W])
