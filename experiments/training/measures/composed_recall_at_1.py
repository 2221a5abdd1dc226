"""The share of composed queries whose own item is among the first of their batch."""

import jax

from experiments.training.measures import recall_at_1

BETTER = max
value = recall_at_1.value


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the chances, and the number of queries.

  Args:
    outputs: scores (kinds, B, B); the last kind of queries counts.
    batch: with "label" (B,), -1 at pairs that only pad the batch.
  """
  return recall_at_1.totals(outputs[-1], batch)
