"""The structural similarity of pictures, the mean over pictures.

Zhou Wang et al. Image Quality Assessment: From Error Visibility to Structural
Similarity. IEEE Transactions on Image Processing 13(4), 2004: Gaussian windows of 11
pixels, the mean over channels. Outputs are clipped to [0, 1], the range of pictures.
"""

import jax
import jax.numpy as jnp

from experiments.training import fillers

BETTER = max
WINDOW = 11  # pixels that a side has at least


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum over pictures, and their number.

  Raises:
    ValueError: if a picture is smaller than the window.
  """
  import dm_pix  # only training needs it: pages read BETTER alone

  if min(outputs.shape[1:3]) < WINDOW:
    raise ValueError(f"ssim of {outputs.shape[1:3]} pixels: a side has at least 11")
  there = fillers.real(batch["target"])
  pictures, target = fillers.compared(jnp.clip(outputs, 0, 1), batch["target"])
  found = dm_pix.ssim(pictures, target, filter_size=WINDOW)
  return {
    "similarity": jnp.sum(jnp.where(there, found, 0)),
    "pictures": jnp.sum(there, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns the mean over pictures."""
  return totals["similarity"] / max(totals["pictures"], 1.0)
