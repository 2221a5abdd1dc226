"""The problems of the suite: tasks in one size, of tokens, long contexts and images."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """A task in one size.

  Attributes:
    dataset: a data set of `experiments.data`.
    options: its options; examples and seeds are the protocol's.
    longer: options of a longer test, beside the usual one; empty for none.
    pool: training examples if not the protocol's; 0 if they are.
  """

  dataset: str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  longer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  pool: int = 0


def _recall(dataset: str, **options: Any) -> Problem:
  """Returns a recall task of MAD, asked only where the answer can be known.

  MAD's training asks every token, most of which are random: with 16 symbols and 32
  tokens softmax attention then came to 0.31, and to 1.0 in a quarter of the training
  without them.
  """
  return Problem(dataset, {"length": 32, "every_token": False, **options})


def _states(dataset: str) -> Problem:
  """Returns a task whose state is asked at each token, tested at four times its T."""
  return Problem(dataset, {"length": 16}, longer={"length": 64})


# In `mqar` all tokens are pairs or questions. Random tokens between them would repeat
# keys, all the more often the fewer symbols there are.
TOKENS: dict[str, Problem] = {
  "mqar_4": Problem("mqar", {"vocab": 20, "length": 16, "pairs": 4}),
  "mqar_6": Problem("mqar", {"vocab": 20, "length": 24, "pairs": 6}),
  "mqar_8": Problem("mqar", {"vocab": 20, "length": 32, "pairs": 8}),
  "in_context_recall": _recall("in_context_recall"),
  "noisy_recall": _recall("noisy_recall"),
  "fuzzy_recall": _recall("fuzzy_recall", key_size=2, value_size=2),
  "memorization": Problem("memorization", {"vocab": 128}, pool=256),  # as in MAD
  "compression": Problem("compression", {"length": 31}),
  "selective_copying": Problem("selective_copying", {"length": 32, "copied": 4}),
  "induction": Problem("induction", {"vocab": 4, "length": 16}),
  "parity": _states("parity"),
  "modular_counting": _states("modular_counting"),
  "s3_words": _states("s3_words"),
  "listops": Problem(
    "listops", {"length": 16, "shortest": 4, "depth": 3, "arguments": 3}
  ),
  "needle": Problem("needle", {"length": 64, "letters": 1, "digits": 4}),
  "match2": Problem("match2", {"vocab": 13, "length": 16}),
  "match3": Problem("match3", {"vocab": 37, "length": 16}),
  "sorting": Problem("sorting", {"vocab": 16, "length": 16}),
}


def _long(dataset: str, **options: Any) -> Problem:
  """Returns a task of a long context, tested at four times its T, too."""
  return Problem(dataset, {"length": 128, **options}, longer={"length": 512})


LONG: dict[str, Problem] = {
  "long_needle": _long("needle", letters=1, digits=2),
  "needle_multi_key": _long("needle_multi_key", letters=1, digits=2, keys=2),
  "needle_multi_value": _long("needle_multi_value", letters=1, digits=1, values=3),
  "needle_multi_query": _long(
    "needle_multi_query", letters=1, digits=2, keys=2, queries=2
  ),
  "variable_tracking": _long("variable_tracking", hops=1, names=8, values=4, noise=8),
  "common_words": _long("common_words", vocab=32, common=2, others=8, ratio=4),
  "chained_lookup": _long("chained_lookup", facts=4, hops=3),
}

IMAGES: dict[str, Problem] = {
  "mnist5k": Problem("mnist5k"),
  "digits": Problem("digits"),
  "shapes": Problem("shapes"),
  "relation": Problem("relation"),
  "texture_shape": Problem("texture_shape"),
}

PROBLEMS = TOKENS | LONG | IMAGES
MAD = (
  "in_context_recall",
  "noisy_recall",
  "fuzzy_recall",
  "memorization",
  "compression",
  "selective_copying",
)
