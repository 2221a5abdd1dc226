"""The objective of a task on a host: how its model is run, its loss and its metric."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import jax

from attnjax.contract import check_known
from attnjax.nn import running
from experiments.training import measures, objectives
from experiments.training.memory import BEGINS, begun


@dataclasses.dataclass(frozen=True)
class Objective:
  """A host and a task, as far as training sees them.

  Attributes:
    inputs: the host's function: a batch to (arguments, options) of its Model's call.
    totals: (outputs, a batch) to sums, of the objective and of metrics with their own.
    metric: the name of the metric.
    also: the names of other metrics that are logged.
  """

  inputs: Callable[[dict], tuple[tuple, dict[str, Any]]]
  totals: Callable[[Any, dict], dict[str, jax.Array]]
  metric: str
  also: tuple[str, ...] = ()

  def predict(
    self,
    model: Any,
    stats: Any,
    batch: dict,
    key=None,
    *,
    memory: Any = (),
    train: bool = False,
  ) -> tuple[Any, Any, Any]:
    """Returns (the model's outputs for a batch, new statistics, the memory after it).

    A `memory` that is not `()` is that of the batch before.
    """
    (arguments, options), own = self.inputs(batch), running.given(stats, train)
    if memory:
      own = own | {"memory": begun(memory, batch[BEGINS])}
    outputs = model(*arguments, key=key, **options, **own)
    outputs, stats = outputs if "stats" in own else (outputs, ())
    outputs, memory = outputs if memory else (outputs, ())
    return outputs, stats, memory

  def summarize(self, totals: dict) -> dict[str, float]:
    """Returns the mean loss and the task's metrics from sums."""
    sums = {name: float(value) for name, value in totals.items()}
    found = {"loss": sums["loss"] / max(sums["count"], 1.0)}
    for name in (self.metric, *self.also):
      found[name] = measures.load(name).value(sums)
    return found


def make(host: Any, task: Any) -> Objective:
  """Returns the objective of a task on a host's module.

  Raises:
    ValueError: if the task names an unknown objective or metric.
  """
  known = sorted(module.name for module in pkgutil.iter_modules(objectives.__path__))
  check_known("objective", task.objective, known)
  module = importlib.import_module(f"{objectives.__name__}.{task.objective}")
  loaded = [module, *map(measures.load, (task.metric, *task.also))]
  parts = [part.totals for part in loaded if hasattr(part, "totals")]

  def totals(outputs, batch):
    return {n: sums for part in parts for n, sums in part(outputs, batch).items()}

  return Objective(host.inputs, totals, task.metric, task.also)
