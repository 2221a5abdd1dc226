"""The mean rank of queries' own items in their batch; the first is 1."""

import jax

from experiments import retrieval

BETTER = min


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the ranks, and the number of queries.

  Args:
    outputs: scores (B, B); pair n is right.
    batch: with "label" (B,), -1 at pairs that only pad the batch.
  """
  places, pairs = retrieval.in_batch(outputs, batch["label"])
  return {"places": places, "pairs": pairs}


def value(totals: dict[str, float]) -> float:
  """Returns the mean over queries."""
  return totals["places"] / max(totals["pairs"], 1.0)
