"""Small models that are trained together and scored: for claims and for the suite.

A `Problem` draws examples and scores; `train` trains models of several rates and seeds
by one program, `path` keeps them on the way; `models` has the two small hosts, and a
mechanism whose output is zero.
"""

from experiments.small.models import language, layer, vision, without
from experiments.small.problem import Problem, of_task
from experiments.small.training import Recipe, Trained, path, scores, train

__all__ = [
  "Problem",
  "Recipe",
  "Trained",
  "language",
  "layer",
  "of_task",
  "path",
  "scores",
  "train",
  "vision",
  "without",
]
