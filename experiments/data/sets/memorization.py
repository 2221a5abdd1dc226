"""Memorization: tell the values of keys by a map that no example shows.

Michael Poli et al. Mechanistic Design and Scaling of Hybrid Architectures (MAD). 2024.
arXiv:2403.17844, section 3.1; https://github.com/athms/mad-lab at 0f49a452.

With V symbols, V - 1 is the inserted one; of the V - 1 others the first half, rounded
down, are keys, the rest values. One map from keys to different values belongs to the
seed, and all splits share it. An example is T/2 keys, drawn independently, each
followed by the inserted symbol, where the label is the key's value. The values are
never among the tokens, so that the map has to be learnt into the parameters.

MAD: V 256, T 32, 256 examples of training (about 32 of each key), 1,280 of test; harder
with V 512 to 8,192. Not here: MAD's pairs of noise, which its settings do not use.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least


def task(
  *,
  vocab: int = 256,
  length: int = 32,
  examples: int = 256,  # of the split train
  held_out: int = 1_280,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab < 3, or the length is odd or below 2."""
  check_least(vocab=(vocab, 3), length=(length, 2), seed=(seed, 0))
  if length % 2:
    raise ValueError(f"length = {length}; pairs of two tokens need an even length")
  return generated.task(
    "memorization",
    functools.partial(
      example, vocab=vocab, length=length, value_of=mapping(vocab, seed)
    ),
    vocab=vocab,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def mapping(vocab: int, seed: int) -> np.ndarray:
  """Returns the value of each key, (keys,), as the seed has it."""
  keys = (vocab - 1) // 2
  values = np.arange(keys, vocab - 1)
  # No example has this number as its split.
  return np.random.default_rng([seed, len(SPLITS)]).permutation(values)[:keys]


def example(
  rng: np.random.Generator, *, vocab: int, length: int, value_of: np.ndarray
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  keys = rng.integers(value_of.size, size=length // 2)
  tokens = np.full(length, vocab - 1, np.int32)
  labels = np.full(length, -1, np.int32)
  tokens[::2], labels[1::2] = keys, value_of[keys]
  return {"tokens": tokens, "labels": labels}
