"""An entry of an analysis' report, and how a page shows it."""

import dataclasses
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from experiments.pages import charts, page

_SHOWN = 3  # examples whose maps are drawn
_SMALL = 64  # elements of a table
_LONGEST = 6  # a map is at most so many times as wide as it is high
_FEW = 6  # different values of an entry that are counted one by one
_AXES = {"B": "example", "L": "layer", "T": "token", "N": "head", "M": "lifetime"}


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of a report.

  Attributes:
    name: its key.
    value: a number, a word or an array.
    axes: a letter an axis.
    meaning: what it is, a phrase.
    named: letter -> the names of the elements on that axis.
  """

  name: str
  value: Any
  axes: str
  meaning: str
  named: dict[str, Sequence[str]]

  @classmethod
  def of(cls, module: ModuleType, name: str, value: Any) -> "Entry":
    """Returns the entry of an analysis' report with what the module says of it."""
    axes = module.AXES[name]
    value = np.asarray(value) if axes else value
    return cls(name, value, axes, module.MEANINGS[name], getattr(module, "LABELS", {}))

  @property
  def constant(self) -> bool:
    """Returns whether the array has no two different numbers, or none at all."""
    found = np.asarray(self.value, float)
    found = found[np.isfinite(found)]
    return found.size == 0 or bool(found.min() == found.max())

  @property
  def small(self) -> bool:
    """Returns whether a table, or a summary over the examples, shows the array."""
    over_examples = self.axes[0] == "B" and self.value[0].size <= len(self.axes) * 2
    return len(self.axes) < 3 and (over_examples or self.value.size <= _SMALL)

  def everywhere(self) -> str:
    """Returns what a constant array is."""
    found = np.asarray(self.value, float)
    found = found[np.isfinite(found)]
    return self.number(found[0]) if found.size else "none"

  def axis(self, letter: str) -> str:
    """Returns the name of an axis."""
    return _AXES.get(letter, letter)

  def labels(self, letter: str) -> list[str]:
    """Returns the names of the elements on an axis, or their numbers."""
    if letter in self.named:
      return list(self.named[letter])
    size = self.value.shape[self.axes.index(letter)]
    return [f"{self.axis(letter)} {i}" for i in range(size)]

  def summary(self, values: np.ndarray | None = None) -> list[str]:
    """Returns mean, least and largest of numbers, and how often each of few occurs."""
    found = np.asarray(self.value if values is None else values, float)
    found = found[np.isfinite(found)]
    if not found.size:
      return ["–"] * 4
    kinds, counts = np.unique(found, return_counts=True)
    few = [f"{self.number(k)}: {n}" for k, n in zip(kinds, counts)]
    said = ", ".join(few) if len(few) <= _FEW else f"{len(few)} different"
    return [*(self.number(f(found)) for f in (np.mean, np.min, np.max)), said]

  def figures(self) -> Iterator[str]:
    """Yields pictures of the array's last two axes: of some examples, or of layers."""
    first, rest = self.value, self.axes
    if len(rest) < 3:
      yield self._figure(first, self.meaning, rest)
      return
    for place in range(min(_SHOWN, len(first))):
      one = first[place]
      said = f"{self.meaning}, {self.axis(rest[0])} {place}"
      while one.ndim > 2:  # of heads, the first one
        said += f", {self.axis(rest[-one.ndim])} 0"
        one = one[0]
      yield self._figure(one, said, rest[-2:])

  def _figure(self, array: np.ndarray, said: str, axes: str) -> str:
    array = np.asarray(array, float)
    if not np.isfinite(array).any():
      return ""
    low, high = (self.number(f(array)) for f in (np.nanmin, np.nanmax))
    down, across = (f"{self.axis(letter)}s" for letter in axes)
    caption = f"{said}: {down} down, {across} across, {low} to {high}"
    shown = np.log1p(array) if self.name == "histogram" else array
    # A few layers of many tokens would be a line.
    times = max(-(-shown.shape[1] // (_LONGEST * shown.shape[0])), 1)
    scale = max(-(-_SMALL // shown.shape[1]), 1)
    large = shown.repeat(times * scale, axis=0).repeat(scale, axis=1)
    return page.figure(charts.attention(large, caption), caption)

  @staticmethod
  def number(value: Any) -> str:
    """Formats a number; "–" is what is not defined."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
      return "–"
    if isinstance(value, bool | np.bool_):
      return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.4g}"
