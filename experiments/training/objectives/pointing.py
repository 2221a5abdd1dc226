"""Cross entropy of labels of points, each after the true ones before it."""

import jax

from experiments.training.objectives import cross_entropy


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of cross entropy in nats, of hits, and of the labels that count.

  Args:
    outputs: with "logits" (B, T, V).
    batch: with "labels" (B, T), -1 where nothing is asked.
  """
  return cross_entropy.totals(outputs["logits"], {"labels": batch["labels"]})
