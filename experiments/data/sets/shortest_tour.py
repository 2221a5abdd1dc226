"""The travelling salesman: name the points in the order of the shortest closed tour.

Oriol Vinyals, Meire Fortunato, Navdeep Jaitly. Pointer Networks. 2015.
arXiv:1506.03134, section 3.3: points uniform in the unit square; a tour begins at the
first point. Of its two directions an answer has that whose second label is less than
its last. Tours are exact, of 13 points at most; the paper's longer ones are those of
approximations.
"""

from experiments.data import planar, pointing
from experiments.data.task import Task


def task(
  *,
  least: int = 5,  # points of an example
  most: int = 5,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if a number is too small or too large."""
  if most > planar.MOST:
    raise ValueError(f"most = {most}; tours are exact up to {planar.MOST} points")
  return pointing.task(
    "shortest_tour",
    planar.tour,
    least=least,
    most=most,
    smallest=2,
    steps=most + 1,
    metrics=("tour_ratio", "whole_tours", "exact_answers"),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
