"""The share of rows of which every label is the likeliest one.

It is the share of whole answers, too, that a model writes by itself, each time the
likeliest word: the words before are the true ones up to the first mistake.
"""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of right rows and of rows with labels.

  Args:
    outputs: logits (B, T, V).
    batch: with "labels" (B, T), -1 where nothing is asked.
  """
  asked = batch["labels"] >= 0
  right = (outputs.argmax(axis=-1) == batch["labels"]) | ~asked
  some = asked.any(axis=1)
  return {
    "exact": jnp.sum(some & right.all(axis=1), dtype=jnp.float32),
    "answered": jnp.sum(some, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns right rows over rows."""
  return totals["exact"] / max(totals["answered"], 1.0)
