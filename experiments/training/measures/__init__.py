"""Metrics of tasks, one file each; a task names its own.

A module has BETTER, `max` or `min`, and `value(totals)`: from sums over a split, as
floats, to the metric. They are the objective's sums, and those of the module's own
`totals(outputs, batch)` if it has one.
"""

import importlib
import pkgutil
from types import ModuleType

from attnjax.contract import check_known


def load(name: str) -> ModuleType:
  """Returns the module of a metric; ValueError with the nearest names if unknown."""
  check_known("metric", name, names())
  return importlib.import_module(f"{__name__}.{name}")


def names() -> list[str]:
  """Returns the names of all metrics."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def sign(name: str) -> int:
  """Returns 1 if more of a metric is better, -1 if less is."""
  return 1 if load(name).BETTER is max else -1
