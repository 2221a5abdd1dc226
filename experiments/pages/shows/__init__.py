"""The parts of a report that show the model itself, one file a kind of data.

A module, named for the kind, has `show(trainer)`, which returns options of
`report.write`. Without a module for its kind a report has the numbers alone.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_MAPS = 4  # heads of a block


def parts(trainer: Any) -> dict[str, Any]:
  """Returns what the report of a trained model shows."""
  kind = trainer.task.kind
  if kind not in (module.name for module in pkgutil.iter_modules(__path__)):
    return {}
  return importlib.import_module(f"{__name__}.{kind}").show(trainer)


def maps(state: Mapping[str, Any], *inputs: Any) -> dict[str, np.ndarray]:
  """Returns name -> (N, T, S) of every block; {} for mechanisms without weights."""
  try:
    weights = state["model"].weights
    given = {"stats": state["stats"]} if state["stats"] else {}
    found = jax.jit(weights)(*inputs, **given)
  except (AttributeError, NotImplementedError):
    return {}
  return {
    f"block {number}": np.asarray(block[0, :_MAPS])
    for number, block in enumerate(found)
  }
