"""Relation: tell whether two marks far apart have the same sign.

Two squares of `mark` x `mark` pixels, each white or black with equal probability, lie
on grey, at places drawn with equal probability from those whose distance is `apart`
pixels or more along one axis at least; the label is 1 if both have the same colour,
else 0. With `tile`, black and white stripes of period 4 lie somewhere on the grid of 8
pixels below the marks, along rows or along columns, and say nothing. Normal noise comes
on top: grey is 0.5, white and black are 1 and 0, stripes 0.84 and 0.16, and the noise's
standard deviation is 0.08, one sixth of a mark's height.

Either mark alone, the number of pixels of a colour in a window that holds one mark, and
the image's mean alone say nothing or little: only what compares places far apart can
answer. Patches of 2 x 2 pixels make 8 x 8 tokens of the defaults.

Measured with softmax attention, two blocks 24 wide under a mean of all tokens, 1,000
steps of 32 at 3e-3, patches of 2 x 2: at chance for 400 steps, 0.99 after 600; with the
tile at chance for 600 steps and 0.63 after 1,000. Larger marks take fewer steps: with
`mark` 5 and patches of 4 x 4 it is right after 200.
"""

import functools

import numpy as np

from experiments.data import drawing, generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

_TILE = 8


def task(
  *,
  side: int = 16,
  mark: int = 3,
  apart: int = 8,
  tile: bool = False,
  noise: float = 0.08,
  examples: int = 10_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (side, side, 1) of 2 classes."""
  check_least(mark=(mark, 1), apart=(apart, mark), side=(side, mark + apart))
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  if tile and side < _TILE:
    raise ValueError(f"side = {side} has no room for a tile of {_TILE} pixels")
  return generated.images(
    "relation",
    functools.partial(
      example, side=side, mark=mark, apart=apart, tile=tile, noise=noise
    ),
    classes=2,
    shape=(side, side, 1),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  side: int,
  mark: int,
  apart: int,
  tile: bool,
  noise: float,
) -> Example:
  """Draws an image and 1 if its marks are alike, else 0."""
  first, second = _places(rng, side - mark + 1, apart)
  bright = rng.integers(2, size=2)
  image = np.full((side, side), 0.5)
  if tile:
    kind = drawing.TEXTURES[rng.integers(2)]
    stripes = drawing.texture(kind, _TILE, 0)
    top, left = _TILE * rng.integers(side // _TILE, size=2)
    drawing.put(image, stripes, (top, left))[...] += 0.34 * stripes
  square = np.ones((mark, mark))
  for corner, white in zip((first, second), bright, strict=True):
    drawing.put(image, square, corner)[...] += white - 0.5
  image += noise * rng.standard_normal(image.shape)
  return generated.picture(image[..., None], int(bright[0] == bright[1]))


def _places(rng, places: int, apart: int) -> tuple[tuple[int, int], tuple[int, int]]:
  """Draws two corners of marks from all pairs that are far enough apart."""
  while True:
    top, left, low, right = (int(x) for x in rng.integers(places, size=4))
    if max(abs(top - low), abs(left - right)) >= apart:
      return (top, left), (low, right)
