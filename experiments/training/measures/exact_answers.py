"""The share of answers that are the true labels, one after the other."""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of right answers and of examples."""
  from experiments.training import answers

  asked = answers.asked(batch)
  right = (outputs["answer"] == batch["labels"]).all(-1)
  return {
    "exact": jnp.sum(asked & right, dtype=jnp.float32),
    "answered": jnp.sum(asked, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns right answers over examples."""
  return totals["exact"] / max(totals["answered"], 1.0)
