"""Sorting: repeat numbers in ascending order after a separator.

Oriol Vinyals, Meire Fortunato, Navdeep Jaitly. Pointer Networks. 2015.
arXiv:1506.03134; Oriol Vinyals, Samy Bengio, Manjunath Kudlur. Order Matters. 2015.
arXiv:1511.06391; there the numbers are real, and the outputs point to positions.

With V symbols and T = 2n tokens: n numbers, each of 0..V-2 with equal probability (so
that some may be equal; without `repeats` all are different), the separator V - 1, and
the first n - 1 of the sorted numbers. The labels, from the separator on, are the n
sorted numbers: the outputs are values, not positions, and each sees those before it.

Literature: n of 5 to 20 real numbers, 30,000 fresh examples; the share of wholly sorted
sequences and that of single positions, whose second is the accuracy here.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least


def task(
  *,
  vocab: int = 64,
  length: int = 32,  # 2n
  repeats: bool = True,
  examples: int = 30_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if length is odd or vocab has too few numbers."""
  check_least(vocab=(vocab, 3), length=(length, 2))
  if length % 2:
    raise ValueError(
      f"length = {length}; n numbers, one between and n - 1 sorted need an even length"
    )
  if not repeats and length // 2 > vocab - 1:
    raise ValueError(
      f"length = {length} without repeats needs {length // 2} different numbers and a"
      f" separator, a vocab of {length // 2 + 1}; vocab = {vocab}"
    )
  return generated.task(
    "sorting",
    functools.partial(example, vocab=vocab, length=length, repeats=repeats),
    vocab=vocab,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, vocab: int, length: int, repeats: bool
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  numbers = rng.choice(vocab - 1, length // 2, replace=repeats)
  ordered = np.sort(numbers)
  tokens = np.concatenate([numbers, [vocab - 1], ordered[:-1]]).astype(np.int32)
  labels = np.full(length, -1, np.int32)
  labels[numbers.size :] = ordered
  return {"tokens": tokens, "labels": labels}
