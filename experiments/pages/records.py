"""What a run's folder says: its settings, its summary, and the best of its numbers."""

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
  """The config with dotted names: {"model.dim": 128, ...}; empty if there is none."""
  return dict(_flat(_object(Path(workdir) / CONFIG) or {}))


def summary(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """The content of summary.json; None for a run that has not finished."""
  return _object(Path(workdir) / SUMMARY)


def check(workdir: str | os.PathLike) -> None:
  """Raises UserError if this is not the folder of a run."""
  path = Path(workdir)
  if not path.is_dir():
    raise UserError(f"there is no folder {str(workdir)!r}")
  if not (path / CONFIG).exists():
    raise UserError(f"{str(workdir)!r} is not the folder of a run: it has no {CONFIG}")


def measures(lines: Iterable[Mapping[str, Any]]) -> list[str]:
  """Names of the loss and the metrics: the loss first, then in order of appearance.

  Those of the validation (or test) lines; of the training lines if there are no others.
  """
  lines = list(lines)
  held_out = [line for line in lines if line["split"] != "train"]
  names = {name: None for line in held_out or lines for name in line}
  return sorted(filter(is_measure, names), key=lambda name: name != "loss")


def is_measure(name: str) -> bool:
  """Whether a number of a line, by its name, says how good the model is."""
  return name not in _OTHER and not name.endswith("_per_second")


def higher_is_better(measure: str) -> bool:
  """Whether more of this metric is better, as its file says, or else by its name."""
  if measure in measures_of.names():
    return measures_of.sign(measure) > 0
  return any(word in measure for word in _HIGHER)


def series(
  lines: Iterable[Mapping[str, Any]], split: str, name: str
) -> tuple[list[int], list[float]]:
  """Steps and values of one number of one split, without those that are not finite."""
  points = [
    (line["step"], float(line[name]))
    for line in lines
    if line["split"] == split and math.isfinite(line.get(name, math.nan))
  ]
  return [step for step, _ in points], [value for _, value in points]


def judged(lines: list[dict[str, Any]]) -> str:
  """The split by which a run is judged: validation, or train if it has none."""
  splits = {line["split"] for line in lines}
  return "validation" if "validation" in splits else "train"


def last_and_best(
  lines: list[dict[str, Any]], measure: str
) -> tuple[float | None, float | None]:
  """The last and the best value of a metric in the split that judges the run.

  The last one may be NaN, of a run that diverged; the best one is finite. None stands
  for no such value.
  """
  split = judged(lines)
  values = [l[measure] for l in lines if l["split"] == split and measure in l]
  finite = [value for value in values if math.isfinite(value)]
  better = max if higher_is_better(measure) else min
  return (values[-1] if values else None), (better(finite) if finite else None)


def speed(lines: Iterable[Mapping[str, Any]]) -> tuple[str, float] | None:
  """The name of the speed, e.g. "tokens_per_second", and its median over training."""
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
