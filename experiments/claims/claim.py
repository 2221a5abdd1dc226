"""Claims as data: the sentence, the rows that are measured, the rule, the verdict."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced at this size"
NOT_NEEDED = "the task does not need it"
NOT_TESTABLE = "not testable here"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_NEEDED, NOT_TESTABLE)
WAITING = "registered, not measured yet"  # no verdict

# The roles of a row in a comparison. "without" is the mechanism's model with its output
# replaced by zero; "broken" must miss the rule; "unable" cannot see the answer, is
# shown and carries no claim.
KINDS = ("mechanism", "without", "baseline", "rival", "broken", "unable")


@dataclasses.dataclass(frozen=True)
class Score:
  """The result of training a row once.

  Attributes:
    value: the score on test data, which the claim is about.
    validation: the score on validation data, by which a rate is chosen.
    parameters: number of trained parameters.
  """

  value: float
  validation: float
  parameters: int


@dataclasses.dataclass(frozen=True)
class Row:
  """A model that is trained and scored.

  Attributes:
    name: the row's name in the table.
    kind: one of KINDS.
    train: pairs of a learning rate and a seed, trained together or in turn, to their
      Scores; see `experiments.claims.rows`.
  """

  name: str
  kind: str
  train: Callable[[Sequence[tuple[float, int]]], Sequence[Score]]


@dataclasses.dataclass(frozen=True)
class Quality:
  """A claim about how well a mechanism does.

  The mechanism's mean over the seeds must be better than that of `against`, by more
  than `margin` and by more than twice the standard error of the difference.

  Attributes:
    sentence: what is claimed, a whole sentence.
    source: its place in the paper: "section 4.2, table 3".
    unit: the unit of the scores.
    better: "more" or "less".
    rows: one "mechanism", one "without", one "baseline" and one "broken" at least.
    against: the name of the row that the mechanism is compared with.
    margin: in the unit of the scores; if negative, the mechanism may be so much worse.
    rates: learning rates; every row takes its best, by the first seed's validation.
    seeds: seeds of data, initial weights and order; three at least.
    paper: the difference in the paper, or None.
  """

  sentence: str
  source: str
  unit: str
  better: str
  rows: Sequence[Row]
  against: str
  margin: float
  rates: Sequence[float] = (1e-3, 3e-3, 1e-2)
  seeds: Sequence[int] = (0, 1, 2)
  paper: float | None = None

  def __post_init__(self):
    kinds = [row.kind for row in self.rows]
    names = [row.name for row in self.rows]
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
      raise ValueError(f"kinds {unknown} are none of {', '.join(KINDS)}")
    for kind in ("mechanism", "without", "baseline", "broken"):
      if kind not in kinds:
        raise ValueError(f"{self.sentence!r} has no row of kind {kind!r}")
    if kinds.count("mechanism") != 1 or len(set(names)) != len(names):
      raise ValueError(f"{self.sentence!r}: one mechanism, and names that differ")
    if self.against not in names:
      raise ValueError(f"against = {self.against!r} is none of {', '.join(names)}")
    if next(r for r in self.rows if r.name == self.against).kind == "unable":
      raise ValueError(f"against = {self.against!r} cannot see the answer")
    if self.better not in ("more", "less"):
      raise ValueError(f"better = {self.better!r}; it is 'more' or 'less'")
    if len(self.seeds) < 3 or len(self.rates) != 3:
      raise ValueError(f"seeds {self.seeds}, rates {self.rates}: at least 3, and 3")

  @property
  def rule(self) -> str:
    """Returns the rule in words."""
    return (
      f"{self.better} than {self.against} by over {self.margin:g} {self.unit} and by"
      " twice the standard error"
    )

  def verdict(self, values: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Returns (one of VERDICTS, the reason) from each row's values over the seeds."""
    kinds: dict[str, list[str]] = {}
    for row in self.rows:
      kinds.setdefault(row.kind, []).append(row.name)
    (mechanism,) = kinds["mechanism"]
    gain, error = self._gain(values[mechanism], values[self.against])
    said = f"{gain:+.4g} {self.unit} (standard error {error:.2g})"
    for name in kinds["without"]:
      more, noise = self._gain(values[mechanism], values[name])
      if not more > 2 * noise:
        return NOT_NEEDED, f"{name} does as well: {more:+.4g} of difference"
    for name in kinds["broken"]:
      if self._holds(values[name], values[self.against]):
        return NOT_TESTABLE, f"the rule cannot be missed: {name} meets it"
    holds = self._holds(values[mechanism], values[self.against])
    return (REPRODUCED if holds else NOT_REPRODUCED), said

  def _holds(self, values, others) -> bool:
    gain, error = self._gain(values, others)
    return gain > self.margin and gain > 2 * error + min(self.margin, 0.0)

  def _gain(self, values, others) -> tuple[float, float]:
    """Returns (how much better the first mean is, the standard error of that gain)."""
    sign = 1.0 if self.better == "more" else -1.0
    one, two = np.asarray(values, float), np.asarray(others, float)
    error = math.sqrt(sum(x.var(ddof=1) / x.size for x in (one, two)))
    return sign * float(one.mean() - two.mean()), error


@dataclasses.dataclass(frozen=True)
class Sized:
  """A row that is measured at several sizes.

  Attributes:
    name: the row's name in the table.
    kind: one of KINDS except "without".
    measure: a size to the cost there, in seconds, bytes or FLOPs.
  """

  name: str
  kind: str
  measure: Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Cost:
  """A claim about what a mechanism costs, beside the best rival in the same run.

  Attributes:
    sentence: what is claimed, a whole sentence.
    source: its place in the paper.
    unit: "seconds", "bytes", ...
    rows: one "mechanism", a "rival" or "baseline", and a "broken" row, which misses
      the rule.
    sizes: four at least, increasing.
    exponent: the largest fitted power of the size; None for no such rule.
    against: with `ratio`, the row whose cost at the largest size is divided by the
      mechanism's.
    ratio: the least such quotient; None for no such rule.
  """

  sentence: str
  source: str
  unit: str
  rows: Sequence[Sized]
  sizes: Sequence[int]
  exponent: float | None = None
  against: str = ""
  ratio: float | None = None

  def __post_init__(self):
    kinds = [row.kind for row in self.rows]
    if kinds.count("mechanism") != 1 or "broken" not in kinds:
      raise ValueError(f"{self.sentence!r}: one mechanism row, and a broken one")
    if not {"rival", "baseline"} & set(kinds):
      raise ValueError(f"{self.sentence!r} has no rival")
    if len(self.sizes) < 4 or list(self.sizes) != sorted(set(self.sizes)):
      raise ValueError(f"sizes {self.sizes}: four at least, increasing")
    if (self.exponent is None) == (self.ratio is None):
      raise ValueError(f"{self.sentence!r}: either an exponent or a ratio is claimed")
    if self.ratio is not None and self.against not in [r.name for r in self.rows]:
      raise ValueError(f"against = {self.against!r} is no row")

  @property
  def rule(self) -> str:
    """Returns the rule in words."""
    if self.exponent is not None:
      return f"grows at most as size^{self.exponent:g}"
    return f"{self.against} costs {self.ratio:g} times as much, at {self.sizes[-1]}"

  def verdict(self, values: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Returns (one of VERDICTS, the reason) from each row's values over the sizes."""
    for row in self.rows:
      if row.kind == "broken" and self._number(row.name, values)[1]:
        return NOT_TESTABLE, f"the rule cannot be missed: {row.name} meets it"
    name = next(row.name for row in self.rows if row.kind == "mechanism")
    number, holds = self._number(name, values)
    word = "exponent" if self.exponent is not None else "times"
    return (REPRODUCED if holds else NOT_REPRODUCED), f"{word} {number:.3g}"

  def _number(self, name, values) -> tuple[float, bool]:
    """Returns (the exponent or ratio of a row, whether the rule holds for it)."""
    if self.exponent is not None:
      power = float(np.polyfit(np.log(self.sizes), np.log(values[name]), 1)[0])
      return power, power <= self.exponent
    ratio = values[self.against][-1] / values[name][-1]
    return ratio, ratio >= (self.ratio or 0.0)


@dataclasses.dataclass(frozen=True)
class NotTestable:
  """A claim that cannot be measured here.

  Attributes:
    sentence: what is claimed.
    source: its place in the paper.
    reason: why.
  """

  sentence: str
  source: str
  reason: str
