"""Selective copying: give back the symbols among blanks, in their order.

Albert Gu, Tri Dao. Mamba. 2023. arXiv:2312.00752, section 4.1.1; Michael Poli et al.
MAD. 2024. arXiv:2403.17844, section 3.1; https://github.com/athms/mad-lab at 0f49a452.

With V symbols, V - 1 says "copy" and V - 2 is blank. The first T - n - 1 tokens are
blanks, but for n random symbols of the V - 2 others at random places, each set of
places equally likely; then come the symbol "copy" and n blanks, whose labels are the n
symbols in their order. Without `selective` the n symbols are the first tokens, which is
the copying task: any mechanism with fixed lags solves it. In MAD's code the last symbol
always stands directly before "copy", and every place of a blank is drawn among n.

MAD: V 16, T 256, n 16, 12,800 examples of training, 1,280 of test; harder with V 32,
64, 128, T 512, 1,024, n 32, 64, 96, or 6,400 to 800 examples. Mamba's paper: V 16, T
4,096, n 16, 400,000 steps; accuracy 18.3 S4, 57.0 H3, 30.1 Hyena, 99.8 Mamba (quoted
from memory).
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
  copied: int = 8,  # n
  selective: bool = True,
  examples: int = 12_800,  # of the split train
  held_out: int = 1_280,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab < 3 or length < 2 x copied + 1."""
  check_least(vocab=(vocab, 3), copied=(copied, 1))
  if length < 2 * copied + 1:
    raise ValueError(
      f"copied = {copied} need a length of 2 x {copied} + 1 = {2 * copied + 1};"
      f" length = {length}"
    )
  return generated.task(
    "selective_copying",
    functools.partial(
      example, vocab=vocab, length=length, copied=copied, selective=selective
    ),
    vocab=vocab,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, vocab: int, length: int, copied: int, selective: bool
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  content = rng.integers(vocab - 2, size=copied)
  first = length - copied - 1
  places = np.arange(copied)
  if selective:
    places = np.sort(rng.choice(first, copied, replace=False))
  tokens = np.full(length, vocab - 2, np.int32)
  labels = np.full(length, -1, np.int32)
  tokens[places], tokens[first] = content, vocab - 1
  labels[first + 1 :] = content
  return {"tokens": tokens, "labels": labels}
