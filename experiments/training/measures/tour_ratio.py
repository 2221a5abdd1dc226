"""The length of the answers' tours over that of the shortest ones, of all together.

Answers that do not visit every point once are no tours and are left out: see
`whole_tours`. It is infinite where there is none.
"""

import math

import jax
import jax.numpy as jnp

BETTER = min


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of the lengths of tours and of the shortest ones."""
  from experiments.training import answers
  from experiments.training.measures import whole_tours

  _, whole = whole_tours.of(outputs, batch)
  found, least = (
    jnp.where(whole, answers.length(batch["points"], labels), 0.0)
    for labels in (outputs["answer"], batch["labels"])
  )
  return {
    "length": jnp.sum(found, dtype=jnp.float32),
    "least_length": jnp.sum(least, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns the length over the least one."""
  if not totals["least_length"]:
    return math.inf
  return totals["length"] / totals["least_length"]
