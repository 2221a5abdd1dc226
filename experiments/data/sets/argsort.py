"""Argsort: name numbers in ascending order by their places.

Oriol Vinyals, Samy Bengio, Manjunath Kudlur. Order Matters. 2015. arXiv:1511.06391,
section 4.2: numbers uniform in [0, 1). It is no task of the paper on pointer networks.
"""

from experiments.data import pointing
from experiments.data.task import Task


def task(
  *,
  least: int = 5,  # numbers of an example
  most: int = 10,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if a number is too small."""
  return pointing.task(
    "argsort",
    lambda numbers: numbers[:, 0].argsort(),
    least=least,
    most=most,
    smallest=1,
    steps=most + 1,
    metrics=("exact_answers", "accuracy"),
    inputs=1,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
