"""Data sets: byte corpora, images and generated tasks, all usable offline.

`names()` lists the folder `sets/`: one module, or one TFDS folder, a data set, with a
function `task(*, options) -> Task` whose keyword arguments are the options. Adding a
data set edits no existing file. Those made from packages are prepared as array_record
files in a cache folder when they are first used, and read without TensorFlow.

  data.names()                           kjv, mqar, ...
  data.defaults("kjv")                   {"length": 256, ...}, for a config
  data.load("kjv", {"length": 512})      a Task
  data.load("tfds:mnist", {})            any other TFDS set, by its name there
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from attnjax import contract
from experiments.data import sets
from experiments.data.task import SPLITS, Task

__all__ = ["SPLITS", "Task", "defaults", "load", "names"]


def names() -> list[str]:
  """Returns the data sets; "tfds" stands for all "tfds:<name>[/<config>]"."""
  return sorted(module.name for module in pkgutil.iter_modules(sets.__path__))


def defaults(name: str) -> dict[str, Any]:
  """Returns the options of a data set with their defaults, for a config.

  Raises:
    ValueError: if there is no such data set.
  """
  _, _, parameters = _find(name)
  options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
  for option, default in options.items():
    if default is inspect.Parameter.empty or default is None:
      raise TypeError(f"{name}: {option} needs a default that is not None")
  return options


def load(name: str, options: Mapping[str, Any] | None = None) -> Task:
  """Loads a data set; prepares it in its cache folder on first use.

  Args:
    name: one of `names()`, or "tfds:<name>[/<config>]".
    options: some of `defaults(name)`; the others keep their defaults.

  Raises:
    ValueError: if the name, an option or an option's value is wrong.
    OSError: if a file that the data set is made from is not there.
  """
  options = options or {}
  known = defaults(name)
  for option in options:
    if option not in known:
      raise ValueError(contract.unknown(f"option of {name}", option, known))
  module, subset, _ = _find(name)
  return module.task(*subset, **options)


def _find(name: str) -> tuple[ModuleType, tuple[str, ...], list[inspect.Parameter]]:
  """Returns (module, (the part after the colon,) or (), parameters of its `task`)."""
  base, colon, subset = name.partition(":")
  if base not in names():
    raise ValueError(contract.unknown("data set", name, names()))
  try:
    module = importlib.import_module(f"experiments.data.sets.{base}")
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"data set {base!r} needs {error.name}: pip install 'attnjax[data]'"
    ) from error
  parameters = list(inspect.signature(module.task).parameters.values())
  named = any(p.kind is p.POSITIONAL_ONLY for p in parameters)
  if named and not subset:
    raise ValueError(f"data set {name!r} needs a name: {base}:<name>[/<config>]")
  if colon and not named:
    raise ValueError(f"data set {base!r} has no parts; there is no {name!r}")
  return module, (subset,) if named else (), parameters
