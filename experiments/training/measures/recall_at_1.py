"""The share of queries whose own item has the greatest score in their batch."""

import jax

from experiments import retrieval

BETTER = max


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the chances, and the number of queries.

  Args:
    outputs: scores (B, B); pair n is right.
    batch: with "label" (B,), -1 at pairs that only pad the batch.
  """
  found, pairs = retrieval.in_batch(outputs, batch["label"], 1)
  return {"found_1": found, "pairs": pairs}


def value(totals: dict[str, float]) -> float:
  """Returns what was found of the queries."""
  return totals["found_1"] / max(totals["pairs"], 1.0)
