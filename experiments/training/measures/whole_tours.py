"""The share of answers that visit every point once."""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the numbers of whole tours and of examples."""
  asked, whole = of(outputs, batch)
  return {
    "whole": jnp.sum(whole, dtype=jnp.float32),
    "tours": jnp.sum(asked, dtype=jnp.float32),
  }


def of(outputs: dict[str, jax.Array], batch: dict) -> tuple[jax.Array, jax.Array]:
  """Returns which examples are no padding, and which of them have a whole tour."""
  from experiments.training import answers

  asked, answer = answers.asked(batch), outputs["answer"]
  all_of_them = (answer > 0).sum(-1) == batch["valid"].sum(-1)
  return asked, asked & all_of_them & answers.distinct(answer)


def value(totals: dict[str, float]) -> float:
  """Returns whole tours over examples."""
  return totals["whole"] / max(totals["tours"], 1.0)
