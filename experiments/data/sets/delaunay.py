"""Delaunay triangulation: name the three corners of every triangle.

Oriol Vinyals, Meire Fortunato, Navdeep Jaitly. Pointer Networks. 2015.
arXiv:1506.03134, section 3.2: points uniform in the unit square; the labels of a
triangle rise, and triangles are ordered by their incenters. n points have at most
2 n - 5 triangles.
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
  """Returns the task; ValueError if a number is too small."""
  return pointing.task(
    "delaunay",
    planar.delaunay,
    least=least,
    most=most,
    smallest=3,
    steps=3 * (2 * most - 5) + 1,
    metrics=("triangle_coverage", "exact_answers"),
    corners=3,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
