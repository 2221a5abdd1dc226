"""The share of answers that are the true polygon, from any corner, in any direction."""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of right polygons and of examples."""
  from experiments.training import answers

  asked = answers.asked(batch)
  right = answers.same_polygon(outputs["answer"], batch["labels"])
  return {
    "right_polygons": jnp.sum(asked & right, dtype=jnp.float32),
    "polygons": jnp.sum(asked, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns right polygons over examples."""
  return totals["right_polygons"] / max(totals["polygons"], 1.0)
