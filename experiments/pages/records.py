"""Readers of a run's folder: its settings, its summary, and the best of its numbers."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.training import measures as measures_of

CONFIG, SUMMARY = "config.json", "summary.json"
# Numbers of a line of the log that say nothing of how good the model is.
_OTHER = ("step", "split", "rate", "gradient_norm", "seconds", "step_seconds")
# Words in the names of metrics of which more is better; of all others, less is.
_HIGHER = ("accuracy", "exact", "coverage", "recall", "precision", "f1", "auc", "score")


def settings(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the config with dotted names: {"model.dim": 128, ...}; {} without one."""
  return dict(_flat(_object(Path(workdir) / CONFIG) or {}))


def summary(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the content of summary.json; None for a run that has not finished."""
  return _object(Path(workdir) / SUMMARY)


def check(workdir: str | os.PathLike) -> None:
  """Raises UserError if this is not the folder of a run."""
  path = Path(workdir)
  if not path.is_dir():
    raise UserError(f"there is no folder {str(workdir)!r}")
  if not (path / CONFIG).exists():
    raise UserError(f"{str(workdir)!r} is not the folder of a run: it has no {CONFIG}")


def measures(lines: Iterable[Mapping[str, Any]]) -> list[str]:
  """Returns the names of the loss and the metrics: the loss first, then as they appear.

  They are read from the validation and test lines, or else from the training lines.
  """
  lines = list(lines)
  held_out = [line for line in lines if line["split"] != "train"]
  names = {name: None for line in held_out or lines for name in line}
  return sorted(filter(is_measure, names), key=lambda name: name != "loss")


def is_measure(name: str) -> bool:
  """Returns whether a number, by its name, says how good the model is."""
  return name not in _OTHER and not name.endswith("_per_second")


def higher_is_better(measure: str) -> bool:
  """Returns whether more of a metric is better, by its module or else by its name."""
  if measure in measures_of.names():
    return measures_of.sign(measure) > 0
  return any(word in measure for word in _HIGHER)


def series(
  lines: Iterable[Mapping[str, Any]], split: str, name: str
) -> tuple[list[int], list[float]]:
  """Returns the steps and the finite values of one number of one split."""
  points = [
    (line["step"], float(line[name]))
    for line in lines
    if line["split"] == split and math.isfinite(line.get(name, math.nan))
  ]
  return [step for step, _ in points], [value for _, value in points]


def judged(lines: list[dict[str, Any]]) -> str:
  """Returns the split by which a run is judged: validation, or train if it has none."""
  splits = {line["split"] for line in lines}
  return "validation" if "validation" in splits else "train"


def last_and_best(
  lines: list[dict[str, Any]], measure: str
) -> tuple[float | None, float | None]:
  """Returns the last and the best value of a metric in the split that judges the run.

  The last one may be NaN, of a run that diverged; the best one is finite. None stands
  for no such value.
  """
  split = judged(lines)
  values = [l[measure] for l in lines if l["split"] == split and measure in l]
  finite = [value for value in values if math.isfinite(value)]
  better = max if higher_is_better(measure) else min
  return (values[-1] if values else None), (better(finite) if finite else None)


def speed(lines: Iterable[Mapping[str, Any]]) -> tuple[str, float] | None:
  """Returns the speed's name, e.g. "tokens_per_second", and its median in training."""
  values: dict[str, list[float]] = {}
  for line in lines:
    for name, value in line.items():
      if name.endswith("_per_second") and line["split"] == "train":
        values.setdefault(name, []).append(value)
  if not values:
    return None
  name, numbers = next(iter(values.items()))
  return name, sorted(numbers)[len(numbers) // 2]


def _object(path: Path) -> dict[str, Any] | None:
  if not path.exists():
    return None
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path} is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} holds no JSON object")
  return value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value
