"""Induction heads: tell what came after the special symbol when it was seen before.

Daniel Y. Fu et al. Hungry Hungry Hippos. 2022. arXiv:2212.14052, section 3.1; Albert
Gu, Tri Dao. Mamba. 2023. arXiv:2312.00752, section 4.1.2.

T random tokens of V - 1 symbols; the special symbol V - 1 is once at a random place
before the last two, and is followed by x; the last token is the special symbol again,
and its label is x. No other position has a label.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least


def task(
  *,
  vocab: int = 16,
  length: int = 64,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab < 2 or length < 3."""
  check_least(vocab=(vocab, 2), length=(length, 3))
  return generated.task(
    "induction",
    functools.partial(example, vocab=vocab, length=length),
    vocab=vocab,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(rng: np.random.Generator, *, vocab: int, length: int) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  special = vocab - 1
  tokens = rng.integers(special, size=length, dtype=np.int32)
  place = int(rng.integers(length - 2))
  tokens[place] = tokens[-1] = special
  labels = np.full(length, -1, np.int32)
  labels[-1] = tokens[place + 1]
  return {"tokens": tokens, "labels": labels}
