"""Problems of small models: examples, a loss and a score."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments import data

Arrays = Mapping[str, np.ndarray]
# The model with its running statistics inside: arguments and options to an output.
Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """Examples, a loss and a score.

  Attributes:
    examples: (seed, split) to arrays whose first axis counts examples; splits are
      "train", from which batches are drawn again and again, "validation" and "test".
    loss: (call, batch) to a scalar that is made less; `call` is the model.
    score: (call, batch) to a scalar, of all examples of a split at once.
  """

  examples: Callable[[int, str], Arrays]
  loss: Callable[[Call, Any], Float[Array, ""]]
  score: Callable[[Call, Any], Float[Array, ""]]


def of_task(
  dataset: str, *, train: int, held_out: int, **options: Any
) -> tuple[Problem, data.task.Task]:
  """Returns a data set of `experiments.data` as a problem, and its task for sizes.

  Models of tokens are scored by the share of right answers at labels that are not -1,
  models of images by that of right classes.

  Args:
    dataset: its name.
    train: number of training examples.
    held_out: number of examples to validate on, and of as many to test on.
    **options: its options; the seed is the run's.
  """
  options = options | {"examples": train, "held_out": held_out}

  @functools.lru_cache(maxsize=8)
  def examples(seed, split):
    source = data.load(dataset, options | {"seed": seed}).source(split)
    found = [source[i] for i in range(len(source))]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}

  task = data.load(dataset, options | {"seed": 0})
  loss, score = (
    (labels_loss, labels_score) if task.kind == "tokens" else (class_loss, class_score)
  )
  return Problem(examples, loss, score), task


def labels_loss(call: Call, batch: Any) -> Float[Array, ""]:
  """Returns the mean cross-entropy at labels (B, T) that are not -1, in nats."""
  counted = batch["labels"] >= 0
  losses = optax.softmax_cross_entropy_with_integer_labels(
    call(batch["tokens"]), jnp.where(counted, batch["labels"], 0)
  )
  return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1)


def labels_score(call: Call, batch: Any) -> Float[Array, ""]:
  """Returns the share of right answers at labels (B, T) that are not -1."""
  counted = batch["labels"] >= 0
  right = (call(batch["tokens"]).argmax(-1) == batch["labels"]) & counted
  return right.sum() / counted.sum()


def class_loss(call: Call, batch: Any) -> Float[Array, ""]:
  """Returns the mean cross-entropy of the images' classes, in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(
    call(batch["image"]), batch["label"]
  ).mean()


def class_score(call: Call, batch: Any) -> Float[Array, ""]:
  """Returns the share of images whose class is right."""
  return (call(batch["image"]).argmax(-1) == batch["label"]).mean()
