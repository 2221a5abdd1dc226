"""Multi-query associative recall: tell which value came after each key.

Simran Arora et al. Zoology: Measuring and Improving Recall in Efficient Language
Models. 2023. arXiv:2312.04927, section 3 and appendix.

With V symbols, T tokens and n pairs: keys are drawn from 1..V/2-1 and values from
V/2..V-1, each without replacement. The first 2n tokens are k1 v1 .. kn vn. The other
T - 2n positions are slots of two, numbered by their gap g = 1, 2, ... from the pairs;
n slots are drawn without replacement, with P(g) proportional to a g^(a-1). Each takes
one key at its first position, where the label is the key's value. All other positions
hold random symbols (zeros without `random_non_queries`) and no label.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task


def task(
  *,
  vocab: int = 256,
  length: int = 64,
  pairs: int = 8,
  power: float = 0.01,  # a; 1 draws the slots uniformly
  random_non_queries: bool = True,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the pairs exceed the length or the vocabulary."""
  if pairs < 1:
    raise ValueError(f"pairs = {pairs}; it must be at least 1")
  if length % 2:
    raise ValueError(f"length = {length}; slots of two tokens need an even length")
  if 4 * pairs > length:
    raise ValueError(
      f"pairs = {pairs} need a length of 4 x {pairs} = {4 * pairs}, two tokens to"
      f" store and two to ask for each; length = {length}"
    )
  if pairs > vocab // 2 - 1:
    raise ValueError(
      f"pairs = {pairs} need as many different keys of 1..vocab/2-1, a vocab of"
      f" {2 * pairs + 2}; vocab = {vocab}"
    )
  if power <= 0:
    raise ValueError(f"power = {power}; it must be positive")
  make = functools.partial(
    example,
    vocab=vocab,
    length=length,
    pairs=pairs,
    power=power,
    random_non_queries=random_non_queries,
  )
  return generated.task(
    "mqar",
    make,
    vocab=vocab,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  vocab: int,
  length: int,
  pairs: int,
  power: float,
  random_non_queries: bool,
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  half = vocab // 2
  keys = 1 + rng.choice(half - 1, pairs, replace=False)
  values = half + rng.choice(vocab - half, pairs, replace=False)
  weight = np.arange(1, length // 2 - pairs + 1) ** (power - 1.0)
  # The order of exponential arrivals is that of draws without replacement.
  slots = np.argsort(rng.exponential(size=weight.size) / weight)[:pairs]
  asked = 2 * (pairs + slots)

  tokens = np.zeros(length, np.int32)
  labels = np.full(length, -1, np.int32)
  tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2] = keys, values
  tokens[asked], labels[asked] = keys, values
  if random_non_queries:
    noise = rng.integers(vocab, size=length)
    tokens = np.where(tokens == 0, noise, tokens).astype(np.int32)
  return {"tokens": tokens, "labels": labels}
