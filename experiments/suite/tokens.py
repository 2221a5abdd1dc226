"""The half of the suite with tokens: its mechanisms, its model, its examples."""

import functools
from typing import Any

import jax
import numpy as np

from experiments import data, small
from experiments.suite import training
from experiments.suite.problems import Problem

FORMS = ("causal",)
LENGTHS = (16, 32, 64)  # a shorter example is padded behind, where nothing is asked
VOCAB = 128  # of all models, so that tasks share compiled programs
SEEN = 12_800  # tokens of a batch's row in training, all updates together


def mechanisms() -> list[str]:
  """Returns what can mix tokens in their order."""
  return training.mechanisms(FORMS)


@functools.cache
def builder(slug: str) -> small.models.Build:
  """Returns what makes the model of a mechanism from a random key."""
  sizes = {"dim": training.DIM, "depth": training.DEPTH, "conv": training.CONV}
  sizes |= {"mlp_ratio": training.MLP_RATIO}
  return small.language([training.layer(slug, FORMS)], vocab=VOCAB, **sizes)


@functools.cache
def steps(known: Problem) -> int:
  """Returns the number of updates, by which all models see as many tokens."""
  length = data.load(known.dataset, known.options).shape[0]
  return SEEN // padded_length(length)


def padded_length(length: int) -> int:
  """Returns the shortest of LENGTHS that examples of this length fit."""
  return min(known for known in LENGTHS if known >= length)


@functools.cache
def problem(known: Problem, longer: bool = False) -> small.Problem:
  """Returns what models learn; the longer test alone if asked."""
  options = {**known.options, **(known.longer if longer else {})}
  train, held_out = known.pool or training.POOL, training.HELD_OUT
  if longer:
    train, held_out = 1, training.LONGER_HELD_OUT
  plain, _ = small.of_task(known.dataset, train=train, held_out=held_out, **options)

  @functools.cache
  def examples(seed, split):
    least = training.POOL if split == "train" else 0
    return padded(plain.examples(seed, split), least)

  return small.Problem(examples, plain.loss, plain.score)


def padded(found: Any, least: int = 0) -> dict[str, np.ndarray]:
  """Returns examples padded to one of LENGTHS; repeated until there are `least`."""
  length = found["tokens"].shape[1]
  behind = padded_length(length) - length
  chosen = np.arange(max(least, len(found["tokens"]))) % len(found["tokens"])
  return {
    name: np.pad(found[name][chosen], ((0, 0), (0, behind)), constant_values=value)
    for name, value in (("tokens", 0), ("labels", -1))
  }


def answers(found: Any) -> np.ndarray:
  """Returns all answers that are asked for in examples."""
  return found["labels"][found["labels"] >= 0]


def state(model: Any) -> dict[str, int]:
  """Returns how many numbers a model keeps of so many tokens when it decodes.

  Nothing where it cannot decode.
  """
  found = {}
  for length in LENGTHS:
    try:
      cache = jax.eval_shape(lambda n=length: model.init_cache(1, n))
    except (AttributeError, NotImplementedError):
      return {}
    found[str(length)] = sum(leaf.size for leaf in jax.tree.leaves(cache))
  return found
