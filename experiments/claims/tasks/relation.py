"""The data set `relation` in patches of 4 x 4 pixels: two marks, alike or not.

Marks of 5 x 5 pixels on 16 x 16, at least 8 pixels apart on one axis, are 4 x 4 tokens;
two blocks 24 wide under a mean of all tokens, 250 steps of 32, without the stripes that
the data set can add. Marks and steps were chosen by softmax attention of all tokens
alone: at rates 3e-3 and 1e-2 it was right after 200 steps; with marks of 3 x 3 it stays
at chance for 400 and is right after 600.
"""

import functools

from experiments import small
from experiments.claims import rows
from experiments.claims.claim import Row

PATCH, TRAIN, HELD_OUT = 4, 8192, 512
RECIPE = small.Recipe(steps=250)


@functools.cache
def problem() -> small.Problem:
  """Returns the problem, scored by the share of images whose class is right."""
  options = {"mark": 5, "tile": False}
  return small.of_task("relation", train=TRAIN, held_out=HELD_OUT, **options)[0]


def build(slugs):
  """Returns what makes the network from a random key."""
  sizes = {"channels": 1, "classes": 2, "patch": PATCH, "dim": 24, "depth": 2}
  return small.vision(slugs, **sizes)


def trained(name: str, kind: str, slugs) -> Row:
  """Returns a row of networks with these mechanisms in turn."""
  return rows.trained(name, kind, build(slugs), problem(), RECIPE)


def without(name: str, slugs) -> Row:
  """Returns the row of the network whose mechanisms give zero."""
  return trained(name, "without", [small.without(slug, ("image",)) for slug in slugs])


def untrained(name: str, slugs) -> Row:
  """Returns the "broken" row of networks as they are drawn."""
  return rows.untrained(name, build(slugs), problem())
