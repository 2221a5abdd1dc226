"""Intersection over union of the foreground, pooled over the pixels of all images.

The foreground are all classes but 0, as one. Labels of -1 do not count.
"""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the pixels of the foreground that are in both, and in either.

  Args:
    outputs: logits (B, H, W, classes).
    batch: with "labels" or "target", int (B, H, W).
  """
  both, either = overlap(outputs, batch)
  return {"foreground_both": both.sum(), "foreground_either": either.sum()}


def overlap(outputs: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
  """Returns the pixels (B,) of each image that are in both foregrounds, or in either.

  Args:
    outputs: logits (B, H, W, classes).
    batch: with "labels" or "target", int (B, H, W).
  """
  wanted = batch["labels"] if "labels" in batch else batch["target"]
  found = (outputs.argmax(axis=-1) > 0) & (wanted >= 0)
  parts = found & (wanted > 0), found | (wanted > 0)
  both, either = (jnp.sum(x, axis=(1, 2), dtype=jnp.float32) for x in parts)
  return both, either


def value(totals: dict[str, float]) -> float:
  """Returns the quotient; 0 without any foreground."""
  return totals["foreground_both"] / max(totals["foreground_either"], 1.0)
