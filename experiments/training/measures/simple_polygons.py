"""The share of answers that are a polygon none of whose edges cross."""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of simple polygons and of examples."""
  from experiments.training import answers

  asked = answers.asked(batch)
  simple = answers.simple(batch["points"], outputs["answer"])
  return {
    "simple": jnp.sum(asked & simple, dtype=jnp.float32),
    "drawn": jnp.sum(asked, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns simple polygons over examples."""
  return totals["simple"] / max(totals["drawn"], 1.0)
