"""Matching tasks: whether numbers of a sequence add to zero with others."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

# (numbers (N,), modulus) -> (N, N, ...): whether numbers j, ... complete number i.
Rule = Callable[[np.ndarray, int], np.ndarray]


def task(
  name: str, rule: Rule, *, vocab: int, length: int, causal: bool, **sizes: Any
) -> Task:
  """Returns the task of a rule.

  Args:
    name: the data set's name.
    rule: tells which numbers complete which.
    vocab: the modulus, odd; the numbers are 1 to vocab - 1.
    length: N, numbers of an example.
    causal: whether numbers are completed by earlier ones only.
    sizes: `examples`, `held_out` and `seed` of `generated.task`.

  Raises:
    ValueError: if vocab is even or below 3, or length < 1.
  """
  check_least(vocab=(vocab, 3), length=(length, 1))
  if vocab % 2 == 0:
    raise ValueError(
      f"vocab = {vocab}; with an even modulus a number may match itself: it must be odd"
    )
  make = functools.partial(
    example, rule=rule, vocab=vocab, length=length, causal=causal
  )
  return generated.task(name, make, vocab=vocab, length=length, **sizes)


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
