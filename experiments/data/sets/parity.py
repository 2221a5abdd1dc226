"""Parity: tell after every bit whether the ones so far are odd in number.

Riccardo Grazzi et al. Unlocking State-Tracking in Linear RNNs Through Negative
Eigenvalues. 2024. arXiv:2411.12537; Yash Sarrof et al. The Expressive Capacity of State
Space Models. 2024. arXiv:2405.17394.

T random bits b_1 .. b_T; the label at position t is (b_1 + .. + b_t) mod 2. The papers
label the last position only; a label at every one is the same state, taught sooner.

A linear recurrence whose eigenvalues are in [0, 1] cannot tell it at every length in
finite precision, one with -1 among them can. Literature: trained on lengths up to 40,
tested up to 256, accuracy above chance 0.022 Transformer, 0.000 Mamba, 1.000 Mamba with
eigenvalues in [-1, 1], 1.000 sLSTM (quoted from memory).
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least


def task(
  *,
  length: int = 40,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task, with a vocabulary of 2; ValueError if length < 1."""
  check_least(length=(length, 1))
  return generated.task(
    "parity",
    functools.partial(example, length=length),
    vocab=2,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(rng: np.random.Generator, *, length: int) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  tokens = rng.integers(2, size=length, dtype=np.int32)
  return {"tokens": tokens, "labels": np.cumsum(tokens, dtype=np.int32) % 2}
