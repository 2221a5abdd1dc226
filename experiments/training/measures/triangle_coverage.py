"""The share of the true triangles that the answers have, in any order."""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of found triangles and of true ones."""
  from experiments.training import answers

  found, there = answers.triples(outputs["answer"])
  wanted, real = answers.triples(batch["labels"])
  equal = (wanted[:, :, None] == found[:, None]).all(-1) & there[:, None]
  return {
    "found_triangles": jnp.sum(equal.any(-1) & real, dtype=jnp.float32),
    "triangles": jnp.sum(real, dtype=jnp.float32),
  }


def value(totals: dict[str, float]) -> float:
  """Returns found triangles over true ones."""
  return totals["found_triangles"] / max(totals["triangles"], 1.0)
