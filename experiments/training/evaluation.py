"""Means over a split."""

from typing import Any

import jax

from experiments.build import Assembly
from experiments.data import pipeline


def evaluate(assembly: Assembly, compiled, state: Any, split: str) -> dict[str, float]:
  """Returns the mean loss and metric on a split, by the state's running statistics."""
  totals: dict[str, float] = {}
  batches = pipeline.evaluation(
    assembly.task.source(split),
    batch=assembly.config.data.batch,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    limit=assembly.config.eval_batches,
  )
  with jax.set_mesh(assembly.mesh):
    for batch in batches:
      found = compiled(state["model"], state["stats"], assembly.put(batch))
      totals = {n: totals.get(n, 0.0) + float(v) for n, v in found.items()}
  return assembly.objective.summarize(totals)
