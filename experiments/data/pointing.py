"""Tasks of the kind "points": answers are rows of labels of the points themselves.

An example has

  points: float32, (most, I), uniform in [0, 1), in random order; zeros behind the real
    ones, of which there are `least` to `most`, each number as likely.
  valid: bool, (most,), True at the real points.
  labels: int32, (steps,): 1 is the first point; 0 ends the answer, and -1 follows.

All examples have the shapes of the longest, so that a program is compiled once.
"""

import functools
from collections.abc import Callable

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

Answer = Callable[[np.ndarray], np.ndarray]


def task(
  name: str,
  answer: Answer,
  *,
  least: int,
  most: int,
  smallest: int,
  steps: int,
  metrics: tuple[str, ...],
  inputs: int = 2,
  corners: int = 0,
  examples: int,
  held_out: int,
  seed: int,
) -> Task:
  """Returns a task whose answers are found by a function.

  Args:
    name: the data set's name.
    answer: points (n, inputs) -> indices of the answer, from 0.
    least: points of an example, at least.
    most: points of an example, at most.
    smallest: the least number of points that has an answer.
    steps: labels of an example, the end included.
    metrics: the names of the metrics, the headline number first.
    inputs: numbers of a point.
    corners: labels of each polygon of an answer; 0: all are of one.
    examples: number of examples of the split train.
    held_out: number of examples of each other split.
    seed: the seed of the whole data set.

  Raises:
    ValueError: if a number is too small.
  """
  check_least(least=(least, smallest), most=(most, least))
  numbers = {"least": least, "most": most, "steps": steps, "inputs": inputs}
  make = functools.partial(example, answer=answer, **numbers)
  return Task(
    name,
    "points",
    0,
    0,
    (most, inputs),
    metrics[0],
    generated.source_of(make, examples, held_out, seed),
    objective="pointing",
    sizes={"inputs": inputs, "symbols": most, "corners": corners},
    also=metrics[1:],
  )


def example(
  rng: np.random.Generator,
  answer: Answer,
  *,
  least: int,
  most: int,
  steps: int,
  inputs: int = 2,
) -> Example:
  """Draws points, and the labels of their answer."""
  n = int(rng.integers(least, most + 1))
  drawn = rng.random((n, inputs), np.float32)
  found = np.asarray(answer(drawn.astype(np.float64))).ravel() + 1
  points, labels = np.zeros((most, inputs), np.float32), np.full(steps, -1, np.int32)
  points[:n] = drawn
  labels[: len(found)], labels[len(found)] = found, 0
  return {"points": points, "valid": np.arange(most) < n, "labels": labels}
