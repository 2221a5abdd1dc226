"""The peak signal-to-noise ratio of pictures in decibels, the mean over pictures.

Outputs are clipped to [0, 1], the range of pictures. A picture counts 100 dB at most,
so that a perfect one does not make the mean infinite.
"""

import jax
import jax.numpy as jnp

from experiments.training import fillers

BETTER = max
_MOST = 100.0


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum over pictures, and their number."""
  import dm_pix  # only training needs it: pages read BETTER alone

  there = fillers.real(batch["target"])
  pictures, target = fillers.compared(jnp.clip(outputs, 0, 1), batch["target"])
  found = jnp.minimum(dm_pix.psnr(pictures, target), _MOST)
  return {
    "decibels": jnp.sum(jnp.where(there, found, 0)),
    "pictures": jnp.sum(there, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns the mean over pictures."""
  return totals["decibels"] / max(totals["pictures"], 1.0)
