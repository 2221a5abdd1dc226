"""The share of queries whose own item is among the first five of their batch."""

import jax

from experiments import retrieval

BETTER = max


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the chances, and the number of queries.

  Args:
    outputs: scores (B, B); pair n is right.
    batch: with "label" (B,), -1 at pairs that only pad the batch.
  """
  found, pairs = retrieval.in_batch(outputs, batch["label"], 5)
  return {"found_5": found, "pairs": pairs}


def value(totals: dict[str, float]) -> float:
  """Returns what was found of the queries."""
  return totals["found_5"] / max(totals["pairs"], 1.0)
