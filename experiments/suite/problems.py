"""The problems of the suite: a task in one size, and how long models train on it."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """A task in one size.

  Attributes:
    dataset: a data set of `experiments.data`.
    options: its options; examples and seeds are the protocol's.
    steps: updates.
    pool: training examples, which are drawn again and again.
    longer: options of a longer test, beside the usual one; empty for none.
  """

  dataset: str
  options: Mapping[str, Any]
  steps: int = 600
  pool: int = 12_800
  longer: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _states(dataset: str) -> Problem:
  """Returns a task whose state is asked at each token, tested at four times its T."""
  return Problem(dataset, {"length": 32}, longer={"length": 128})


PROBLEMS: dict[str, Problem] = {
  "mqar_4": Problem("mqar", {"vocab": 64, "length": 32, "pairs": 4}),
  "mqar_8": Problem("mqar", {"vocab": 64, "length": 64, "pairs": 8}),
  "mqar_16": Problem("mqar", {"vocab": 128, "length": 64, "pairs": 16}),
  "in_context_recall": Problem("in_context_recall", {}),
  "noisy_recall": Problem("noisy_recall", {}),
  "fuzzy_recall": Problem("fuzzy_recall", {}),
  "memorization": Problem("memorization", {}, pool=256),  # as in MAD
  "compression": Problem("compression", {}),
  "selective_copying": Problem("selective_copying", {}),
  "induction": Problem("induction", {}),
  "parity": _states("parity"),
  "modular_counting": _states("modular_counting"),
  "s3_words": _states("s3_words"),
  "listops": Problem("listops", {}),
  "needle": Problem("needle", {}),
  "match2": Problem("match2", {}),
  "match3": Problem("match3", {}),
  "sorting": Problem("sorting", {}),
}
