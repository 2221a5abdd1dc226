"""Drawn shapes: the class of every pixel of a picture of overlapping shapes.

Up to `things` filled shapes (square, cross, disc, triangle: the first `shapes` of them)
of 9 to 15 pixels, each of a colour of its own, lie anywhere on a dark ground, and over
each other; normal noise comes on top. The label of a pixel is 0 on the ground, and else
1 + the kind of the shape that is seen there. A colour says nothing of a kind, and a
pixel amid a shape not either: a mechanism has to see the shape's outline from there,
and to join the parts of a shape that another one covers.
"""

import functools

import numpy as np

from experiments.data import drawing, generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

_SIZES = (9, 16)  # of shapes: 9 to 15
_GROUND, _COLOUR = (0.0, 0.25), (0.35, 1.0)


def task(
  *,
  side: int = 32,
  shapes: int = 4,
  things: int = 4,
  noise: float = 0.05,
  examples: int = 20_000,  # of the split train
  held_out: int = 500,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (side, side, 3) and labels (side, side)."""
  check_least(side=(side, _SIZES[1]), things=(things, 1))
  if not 1 <= shapes <= len(drawing.SHAPES):
    raise ValueError(f"shapes = {shapes}; it must be 1 to {len(drawing.SHAPES)}")
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  return generated.maps(
    "drawn_shapes",
    functools.partial(example, side=side, shapes=shapes, things=things, noise=noise),
    outputs=1 + shapes,
    shape=(side, side, 3),
    objective="cross_entropy",
    metrics=("mean_iou", "accuracy"),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, side: int, shapes: int, things: int, noise: float
) -> Example:
  """Draws a picture and the class of each of its pixels."""
  image = np.broadcast_to(rng.uniform(*_GROUND, 3), (side, side, 3)).copy()
  target = np.zeros((side, side), np.int32)
  for _ in range(int(rng.integers(1, things + 1))):
    kind, size = int(rng.integers(shapes)), int(rng.integers(*_SIZES))
    inside = drawing.shape(drawing.SHAPES[kind], size) > 0
    top, left = (int(x) for x in rng.integers(side - size + 1, size=2))
    drawing.put(image, inside, (top, left))[inside] = rng.uniform(*_COLOUR, 3)
    drawing.put(target, inside, (top, left))[inside] = 1 + kind
  image += noise * rng.standard_normal(image.shape)
  return {"image": np.clip(image, 0, 1).astype(np.float32), "target": target}
