"""Convex hulls: name the corners of the hull of points, counter-clockwise.

Oriol Vinyals, Meire Fortunato, Navdeep Jaitly. Pointer Networks. 2015.
arXiv:1506.03134, section 3.1: points uniform in the unit square; an answer begins with
the corner of the least index.
"""

from experiments.data import planar, pointing
from experiments.data.task import Task


def task(
  *,
  least: int = 5,  # points of an example
  most: int = 10,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if a number is too small."""
  return pointing.task(
    "convex_hull",
    planar.hull,
    least=least,
    most=most,
    smallest=3,
    steps=most + 1,
    metrics=("exact_polygons", "area_coverage", "simple_polygons"),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
