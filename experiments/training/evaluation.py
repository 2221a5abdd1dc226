"""Means over a split."""

from typing import Any

import jax

from experiments.build import Assembly
from experiments.data import pipeline
from experiments.training import memory


def evaluate(assembly: Assembly, compiled, state: Any, split: str) -> dict[str, float]:
  """Returns the mean loss and metric on a split, by the state's running statistics.

  With a memory, row r of each batch continues that of the batch before, from none.
  """
  totals: dict[str, float] = {}
  batches = pipeline.evaluation(
    assembly.task.source(split),
    batch=assembly.config.data.batch,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    limit=assembly.config.eval_batches,
    consecutive=assembly.config.memory > 0,
  )
  with jax.set_mesh(assembly.mesh):
    held = jax.jit(memory.fresh)(state["memory"])
    for batch in batches:
      parts = state["model"], state["stats"], held, assembly.put(batch)
      found, held = compiled(*parts)
      totals = {n: totals.get(n, 0.0) + float(v) for n, v in found.items()}
  return assembly.objective.summarize(totals)
