"""Matching tasks: whether numbers of a sequence add to zero with others."""

from collections.abc import Callable

import numpy as np

from experiments.data.generated import Example
from experiments.data.task import check_least

# (numbers (N,), modulus) -> (N, N, ...): whether numbers j, ... complete number i.
Rule = Callable[[np.ndarray, int], np.ndarray]


def check(vocab: int, length: int) -> None:
  """Raises ValueError unless vocab is odd and at least 3, and length at least 1."""
  check_least(vocab=(vocab, 3), length=(length, 1))
  if vocab % 2 == 0:
    raise ValueError(
      f"vocab = {vocab}; with an even modulus a number may match itself: it must be odd"
    )


def example(
  rng: np.random.Generator, *, rule: Rule, vocab: int, length: int, causal: bool
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  x = rng.integers(1, vocab, size=length)
  found = rule(x, vocab)
  if causal:
    seen = np.tri(length, dtype=bool)
    for axis in range(1, found.ndim):
      found &= seen.reshape(
        [length if a in (0, axis) else 1 for a in range(found.ndim)]
      )
  labels = found.any(axis=tuple(range(1, found.ndim)))
  return {"tokens": x.astype(np.int32), "labels": labels.astype(np.int32)}
