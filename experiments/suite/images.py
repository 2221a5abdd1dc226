"""The half of the suite with images: its mechanisms, its model, its examples.

All images become 32 x 32 pixels of three channels, so that data sets share compiled
programs: the pixels of `digits` and `relation` are repeated, those of `mnist5k` have a
border of zeros, one channel stands in all three. A patch has 4 x 4 of these pixels, so
that each mechanism sees a grid of 8 x 8.
"""

import functools
from typing import Any

import numpy as np

from attnjax.models import vision
from experiments import data, small
from experiments.suite import training
from experiments.suite.problems import Problem

SIDE, CHANNELS, CLASSES, PATCH = 32, 3, 12, 4


def mechanisms() -> list[str]:
  """Returns what can mix patches: images, or sequences that are not in an order."""
  return training.mechanisms(vision.FORMS)


@functools.cache
def builder(slug: str) -> small.models.Build:
  """Returns what makes the model of a mechanism from a random key."""
  return small.vision(
    [training.layer(slug, vision.FORMS)],
    channels=CHANNELS,
    classes=CLASSES,
    patch=PATCH,
    dim=training.DIM,
    depth=training.DEPTH,
    mlp_ratio=training.MLP_RATIO,
  )


def steps(known: Problem) -> int:
  """Returns the number of updates."""
  del known
  return 240


@functools.cache
def problem(known: Problem) -> small.Problem:
  """Returns what models learn."""
  sizes = {"examples": training.POOL, "held_out": training.HELD_OUT}
  generated = set(sizes) <= set(data.defaults(known.dataset))

  @functools.cache  # as they are drawn, since resized ones take much memory
  def drawn(seed, split):
    own = {**sizes, "seed": seed} if generated else {}
    source = data.load(known.dataset, {**known.options, **own}).source(split)
    found = [source[i] for i in range(len(source))]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}

  def examples(seed, split):
    image, label = (drawn(seed, split)[name] for name in ("image", "label"))
    least = training.POOL if split == "train" else 0
    chosen = np.arange(max(least, len(label))) % len(label)
    return {"image": resized(image[chosen]), "label": label[chosen]}

  loss, score = small.problem.class_loss, small.problem.class_score
  return small.Problem(examples, loss, score)


def resized(image: np.ndarray) -> np.ndarray:
  """Returns images (B, H, H, C) as (B, SIDE, SIDE, CHANNELS); see above."""
  times = SIDE // image.shape[1]
  image = image.repeat(times, 1).repeat(times, 2)
  before = (SIDE - image.shape[1]) // 2
  behind = SIDE - image.shape[1] - before
  image = np.pad(image, ((0, 0), (before, behind), (before, behind), (0, 0)))
  return np.broadcast_to(image, (*image.shape[:3], CHANNELS))


def answers(found: Any) -> np.ndarray:
  """Returns the classes of examples."""
  return found["label"]


def state(model: Any) -> dict[str, int]:
  """Returns nothing: models of images do not decode."""
  del model
  return {}
