"""Shapes: tell the shape and the colour of an object among clutter.

An object, one of `shapes` filled shapes (square, cross, disc, triangle) in one of
`colours` colours (red, green, blue, yellow), of 11 to 15 pixels, lies anywhere on a
dark image; `clutter` squares of 3 x 3 pixels of all colours lie anywhere behind it, and
normal noise on top. The label is shape x colours + colour. What is near tells clutter
from an object and some edges; which shape they make takes the whole object, and the
clutter's colours are in every image.
"""

import functools

import numpy as np

from experiments.data import drawing, generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

COLOURS = ((1.0, 0.1, 0.1), (0.1, 1.0, 0.1), (0.1, 0.1, 1.0), (1.0, 1.0, 0.1))
_SIZES = (11, 16)  # of objects: 11 to 15
_PIECE = 3
_GROUND = 0.1


def task(
  *,
  side: int = 32,
  shapes: int = 4,
  colours: int = 3,
  clutter: int = 10,
  noise: float = 0.1,
  examples: int = 10_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (side, side, 3) of shapes x colours classes."""
  check_least(side=(side, _SIZES[1]), clutter=(clutter, 0))
  for name, number, known in (
    ("shapes", shapes, drawing.SHAPES),
    ("colours", colours, COLOURS),
  ):
    if not 1 <= number <= len(known):
      raise ValueError(f"{name} = {number}; it must be 1 to {len(known)}")
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  return generated.images(
    "shapes",
    functools.partial(
      example, side=side, shapes=shapes, colours=colours, clutter=clutter, noise=noise
    ),
    classes=shapes * colours,
    shape=(side, side, 3),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  side: int,
  shapes: int,
  colours: int,
  clutter: int,
  noise: float,
) -> Example:
  """Draws an image and its class."""
  kind, colour = int(rng.integers(shapes)), int(rng.integers(colours))
  image = np.full((side, side, 3), _GROUND)
  for _ in range(clutter):
    _paint(image, rng, np.ones((_PIECE, _PIECE)), int(rng.integers(colours)))
  size = int(rng.integers(*_SIZES))
  _paint(image, rng, drawing.shape(drawing.SHAPES[kind], size), colour)
  image += noise * rng.standard_normal(image.shape)
  return generated.picture(image, kind * colours + colour)


def _paint(image, rng, part, colour: int) -> None:
  """Paints a part somewhere, over what is there."""
  corner = rng.integers(len(image) - len(part) + 1, size=2)
  under = drawing.put(image, part, (int(corner[0]), int(corner[1])))
  under[...] = np.where(part[..., None] > 0, COLOURS[colour], under)
