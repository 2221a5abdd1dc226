"""Words of S3: tell after every permutation of three what all so far make together.

William Merrill, Jackson Petty, Ashish Sabharwal. The Illusion of State in State-Space
Models. 2024. arXiv:2404.08819; Riccardo Grazzi et al. arXiv:2411.12537.

The six permutations of (0, 1, 2) are numbered in their lexicographical order: 0 is (0,
1, 2), the identity, 1 is (0, 2, 1), .. 5 is (2, 1, 0). T of them are drawn; the state
begins as the identity, and permutation p makes of state s the state p after s,
(p(s(0)), p(s(1)), p(s(2))). The label at each position is the number of the state. With
`swaps`, only the identity and the three permutations that exchange two are drawn.

S3 is the smallest group that does not commute. It is solvable, so that a transformer or
linear recurrence of constant depth may tell it, unlike S5 and A5, on which the paper
finds S4, Mamba and transformers to need more layers for longer words while an RNN needs
one. Not here: the larger groups.
"""

import functools
import itertools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

PERMUTATIONS = tuple(itertools.permutations(range(3)))

# AFTER[p][s]: the number of permutation p after permutation s.
AFTER = tuple(
  tuple(PERMUTATIONS.index(tuple(p[i] for i in s)) for s in PERMUTATIONS)
  for p in PERMUTATIONS
)


def task(
  *,
  length: int = 32,
  swaps: bool = False,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task, with a vocabulary of 6; ValueError if length < 1."""
  check_least(length=(length, 1))
  return generated.task(
    "s3_words",
    functools.partial(example, length=length, swaps=swaps),
    vocab=len(PERMUTATIONS),
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(rng: np.random.Generator, *, length: int, swaps: bool) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  # These leave a place as it is; the two others, 3 and 4, move all.
  drawn = [0, 1, 2, 5] if swaps else range(6)
  tokens = rng.choice(drawn, length).tolist()
  states = itertools.accumulate(tokens, lambda s, p: AFTER[p][s])
  return {
    "tokens": np.array(tokens, np.int32),
    "labels": np.fromiter(states, np.int32, length),
  }
