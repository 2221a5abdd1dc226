"""The data set `digits`, 8 x 8 pixels, as a problem of small image classifiers."""

import functools

import numpy as np

from experiments import data, small
from experiments.claims import rows
from experiments.claims.claim import Row
from experiments.small import problem

PATCH, CLASSES = 2, 10


@functools.cache
def examples(seed, split):
  """Returns the images and labels of a split, which no seed changes."""
  del seed
  source = data.load("digits", {}).source(split)
  found = [source[i] for i in range(len(source))]
  return {name: np.stack([one[name] for one in found]) for name in ("image", "label")}


PROBLEM = small.Problem(examples, problem.class_loss, problem.class_score)


def trained(name: str, kind: str, build: small.models.Build, recipe) -> Row:
  """Returns a row of what `build` makes, by the share of images told right."""
  return rows.trained(name, kind, build, PROBLEM, recipe)
