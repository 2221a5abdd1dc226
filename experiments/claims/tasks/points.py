"""Networks that answer points by labels: their examples, a loss and scores.

Labels are those of `experiments.data.pointing`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import data
from experiments.data import planar, pointing
from experiments.training import answers

TRAIN, HELD_OUT = 16384, 512
_SOLVED = {"hull": planar.hull, "tour": planar.tour}


@functools.lru_cache(maxsize=8)
def examples(seed, split, task, least, most):
  """Draws points, padding and labels, as the data sets have them."""
  draw = np.random.default_rng([seed, data.SPLITS.index(split), most])
  numbers = {"least": least, "most": most, "steps": most + 1}
  count = TRAIN if split == "train" else HELD_OUT
  found = [pointing.example(draw, _SOLVED[task], **numbers) for _ in range(count)]
  return {name: np.stack([one[name] for one in found]) for name in found[0]}


class Answering(nnx.Module):
  """A network whose call gives logits after true labels, or an answer without."""

  def __init__(self, network: Any):
    self.network = network

  def __call__(self, points, valid, labels=None, *, steps=0, constraint="none"):
    """Returns logits (B, T, V), or labels (B, steps)."""
    if labels is not None:
      return self.network(points, labels, valid=valid)
    how = {"steps": steps, "constraint": constraint, "valid": valid}
    return self.network.search(points, **how)[0]


def error(call, batch):
  """Returns the mean of -ln p over labels."""
  log = jax.nn.log_softmax(call(batch["points"], batch["valid"], batch["labels"]))
  asked = batch["labels"] >= 0
  place = jnp.where(asked, batch["labels"], 0)[..., None]
  picked = jnp.take_along_axis(log, place, axis=-1)[..., 0]
  return -jnp.sum(jnp.where(asked, picked, 0.0)) / asked.sum()


def exact(call, batch):
  """Returns the share of right polygons."""
  steps = batch["labels"].shape[1]
  found = call(batch["points"], batch["valid"], steps=steps)
  return answers.same_polygon(found, batch["labels"]).mean()


def covered(call, batch):
  """Returns the mean share of the area; it is 0 where the polygon is not simple."""
  points, steps = batch["points"], batch["labels"].shape[1]
  found = call(points, batch["valid"], steps=steps)
  share = answers.area(points, found) / answers.area(points, batch["labels"])
  return jnp.where(answers.simple(points, found), share, 0.0).mean()


def stretch(call, batch):
  """Returns the length of the tours over that of the shortest ones."""
  points, steps = batch["points"], batch["labels"].shape[1]
  found = call(points, batch["valid"], steps=steps, constraint="tour")
  lengths = [answers.length(points, labels) for labels in (found, batch["labels"])]
  return lengths[0].sum() / lengths[1].sum()


def nearest(points: np.ndarray) -> np.ndarray:
  """Returns the tour (n,) that goes from point 0 to the nearest that is left."""
  tour, left = [0], set(range(1, len(points)))
  while left:
    here = points[tour[-1]]
    tour.append(min(left, key=lambda i: float(np.square(points[i] - here).sum())))
    left.remove(tour[-1])
  return np.array(tour)
