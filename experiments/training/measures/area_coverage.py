"""The area of the answers' polygons over that of the true ones, the mean over examples.

Answers that are no simple polygon have no area and are left out, as in the paper, which
reports a failure where they are more than 1 %: see `simple_polygons`.
"""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the shares of the area, and the number of simple polygons."""
  from experiments.training import answers

  counted = answers.asked(batch) & answers.simple(batch["points"], outputs["answer"])
  found, wanted = (
    answers.area(batch["points"], labels)
    for labels in (outputs["answer"], batch["labels"])
  )
  share = jnp.where(counted, found / jnp.where(counted, wanted, 1.0), 0.0)
  return {
    "covered": jnp.sum(share, dtype=jnp.float32),
    "covering": jnp.sum(counted, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns the mean share, 0 without a simple polygon."""
  return totals["covered"] / max(totals["covering"], 1.0)
