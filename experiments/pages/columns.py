"""The columns of a comparison of runs, and what in it cannot be compared."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from experiments.pages import readable, records


@dataclasses.dataclass(frozen=True)
class Run:
  """The contents of a run's folder; `summary` is None if the run has not finished."""

  name: str
  settings: dict[str, Any]
  lines: list[dict[str, Any]]
  summary: dict[str, Any] | None

  @property
  def label(self) -> str:
    """Returns the name, with a remark if the run has not finished."""
    return self.name if self.summary is not None else f"{self.name} (unfinished)"


@dataclasses.dataclass(frozen=True)
class Column:
  """One column: a value for each run, their number format, and which is best.

  `better` is max or min; None where no value is better than another.
  """

  name: str
  values: list[Any]
  form: Callable[[Any], str] = readable.number
  better: Callable[[list], Any] | None = None

  def cells(self) -> list[str]:
    """Formats the values."""
    return ["–" if value is None else self.form(value) for value in self.values]

  def best(self, finished: Sequence[bool]) -> set[int]:
    """Returns the rows with the best value, if there is a choice."""
    if self.better is None:
      return set()
    rows = [
      i
      for i, value in enumerate(self.values)
      if finished[i] and value is not None and math.isfinite(value)
    ]
    values = [self.values[i] for i in rows]
    if len(set(values)) < 2:
      return set()
    return {i for i in rows if self.values[i] == self.better(values)}


def columns(found: Sequence[Run]) -> list[Column]:
  """Returns the columns of the table, without those that are empty."""
  facts = [run.summary or {} for run in found]

  def fact(name: str, key: str, form, better=min) -> Column:
    return Column(name, [f.get(key) for f in facts], form, better)

  memory = [_sum(f.get("bytes_temporary"), f.get("bytes_arguments")) for f in facts]
  table = [
    *_settings(found),
    Column("steps done", [_steps(run) for run in found]),
    *_results(found),
    fact("parameters", "parameters", readable.count),
    fact("FLOPs a step", "flops_per_step", readable.count),
    Column("memory", memory, readable.size, min),
    fact("time a step", "step_seconds", readable.duration),
    *_speeds(found),
  ]
  return [c for c in table if any(value is not None for value in c.values)]


def remarks(found: Sequence[Run]) -> list[str]:
  """Returns sentences about what cannot be compared."""
  notes = []
  data = {run.name: _data(run) for run in found}
  if len(set(data.values())) > 1:
    listed = ", ".join(f"{name}: {value}" for name, value in data.items())
    notes.append(
      f"The runs have different data ({listed}); their losses do not compare."
    )
  sets = [frozenset(records.measures(run.lines)) for run in found if run.lines]
  if len(set(sets)) > 1:
    uneven = sorted(frozenset.union(*sets) - frozenset.intersection(*sets))
    notes.append(f"Only some runs measured: {', '.join(map(readable.name, uneven))}.")
  judged = {run.name: records.judged(run.lines) for run in found if run.lines}
  trained = [name for name, split in judged.items() if split == "train"]
  if trained:
    notes.append(f"Training numbers, for want of validation: {', '.join(trained)}.")
  return notes


def _settings(found: Sequence[Run]) -> list[Column]:
  """Returns columns of the settings that several runs have and in which they differ."""
  every = dict.fromkeys(key for run in found for key in run.settings)
  differing = []
  for key in every:
    values = [run.settings[key] for run in found if key in run.settings]
    if len({str(value) for value in values}) > 1:
      differing.append(key)
  # In full: a learning rate must not be rounded.
  return [Column(key, [r.settings.get(key) for r in found], str) for key in differing]


def _results(found: Sequence[Run]) -> list[Column]:
  table = []
  alike = len({_data(run) for run in found}) == 1
  for measure in dict.fromkeys(m for run in found for m in records.measures(run.lines)):
    values = [records.last_and_best(run.lines, measure) for run in found]
    better = (max if records.higher_is_better(measure) else min) if alike else None
    name = readable.name(measure)
    table.append(Column(f"final {name}", [last for last, _ in values], better=better))
    table.append(Column(f"best {name}", [best for _, best in values], better=better))
  return table


def _speeds(found: Sequence[Run]) -> list[Column]:
  speeds = [records.speed(run.lines) for run in found]
  return [
    Column(
      readable.name(name),
      [s[1] if s is not None and s[0] == name else None for s in speeds],
      readable.count,
      max,
    )
    for name in dict.fromkeys(s[0] for s in speeds if s is not None)
  ]


def _data(run: Run) -> str:
  known = run.settings.get("data.name", run.settings.get("data", "unknown"))
  return str((run.summary or {}).get("data", known))


def _steps(run: Run) -> int | None:
  if run.summary and "steps" in run.summary:
    return run.summary["steps"]
  return max((line["step"] for line in run.lines), default=None)


def _sum(*numbers: float | None) -> float | None:
  known = [n for n in numbers if n is not None]
  return sum(known) if known else None
