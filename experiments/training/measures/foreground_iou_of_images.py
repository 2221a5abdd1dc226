"""Intersection over union of the foreground of each image, averaged over images.

The foreground are all classes but 0, as one. Labels of -1 do not count, nor do images
without foreground in labels and outputs.
"""

import jax
import jax.numpy as jnp

from experiments.training.measures import foreground_iou

BETTER = max


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the quotients, and the number of images that have one.

  Args:
    outputs: logits (B, H, W, classes).
    batch: with "labels" or "target", int (B, H, W).
  """
  both, either = foreground_iou.overlap(outputs, batch)
  return {
    "image_ious": jnp.sum(both / jnp.maximum(either, 1)),
    "images_with_foreground": jnp.sum(either > 0, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns the mean; 0 without any image."""
  return totals["image_ious"] / max(totals["images_with_foreground"], 1.0)
