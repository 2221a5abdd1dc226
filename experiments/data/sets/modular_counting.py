"""Modular counting: tell after every symbol the sum so far modulo 3.

Riccardo Grazzi et al. Unlocking State-Tracking in Linear RNNs Through Negative
Eigenvalues. 2024. arXiv:2411.12537; Grégoire Delétang et al. Neural Networks and the
Chomsky Hierarchy. 2022. arXiv:2207.02098.

T random symbols x_1 .. x_T of 0..V-1; the label at position t is (x_1 + .. + x_t) mod
m. With V = 2 this counts the ones; with V = 2 and m = 2 it is `parity`; with V = m it
is the word problem of the cyclic group. A linear recurrence needs complex eigenvalues,
or products of reflections, to count modulo 3 at every length.

Literature, of the related modular arithmetic without brackets (m 5, operators between
numbers, trained up to 40, tested up to 256), accuracy above chance: 0.031 Transformer,
0.095 Mamba, 0.241 with eigenvalues in [-1, 1], 0.302 DeltaNet, 0.971 with eigenvalues
in [-1, 1] (quoted from memory). Not here: operators and brackets.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least


def task(
  *,
  vocab: int = 2,
  length: int = 40,
  modulus: int = 3,  # m
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab < 2, modulus < 2 or length < 1."""
  check_least(vocab=(vocab, 2), modulus=(modulus, 2), length=(length, 1))
  return generated.task(
    "modular_counting",
    functools.partial(example, vocab=vocab, length=length, modulus=modulus),
    vocab=max(vocab, modulus),
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, vocab: int, length: int, modulus: int
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  tokens = rng.integers(vocab, size=length)
  labels = np.cumsum(tokens) % modulus
  return {"tokens": tokens.astype(np.int32), "labels": labels.astype(np.int32)}
