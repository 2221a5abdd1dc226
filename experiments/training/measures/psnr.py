"""The peak signal-to-noise ratio of pictures in decibels, the mean over pictures.

Outputs are clipped to [0, 1], the range of pictures. A picture counts 100 dB at most,
so that a perfect one does not make the mean infinite.
"""

import jax
import jax.numpy as jnp

BETTER = max
_MOST = 100.0


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum over pictures, and their number."""
  import dm_pix  # only training needs it: pages read BETTER alone

  pictures = jnp.clip(outputs.astype(jnp.float32), 0, 1)
  found = dm_pix.psnr(pictures, batch["target"].astype(jnp.float32))
  return {
    "decibels": jnp.sum(jnp.minimum(found, _MOST)),
    "pictures": jnp.asarray(len(pictures), jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns the mean over pictures."""
  return totals["decibels"] / max(totals["pictures"], 1.0)
