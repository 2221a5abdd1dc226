"""Texture and shape: tell a local texture, and whether two shapes far apart match.

The four quarters of an image hold, in an order drawn for each image, two shapes, a tile
of a texture, and nothing. Each shape is one of `shapes` (square, cross, disc, triangle)
with equal probability for the first; the second is the same one with probability 1/2,
else another one. The texture is one of `textures` (rows, columns, diagonals,
chessboard), of period 4 with a random phase. All are 10 pixels wide and lie anywhere in
their quarter; normal noise comes on top. The label is same x textures + texture.

The texture is seen in a window of 4 x 4 pixels anywhere in the tile; the match needs
two quarters at once. What sees near or far only can get one of both parts.
"""

import functools

import numpy as np

from experiments.data import drawing, generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

_SIZE = 10


def task(
  *,
  side: int = 32,
  shapes: int = 2,
  textures: int = 2,
  noise: float = 0.1,
  examples: int = 10_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (side, side, 1) of 2 x textures classes."""
  check_least(side=(side, 2 * _SIZE))
  if side % 2:
    raise ValueError(f"side = {side}; it must be even")
  for name, number in (("shapes", shapes), ("textures", textures)):
    if not 2 <= number <= 4:
      raise ValueError(f"{name} = {number}; it must be 2 to 4")
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  return generated.images(
    "texture_shape",
    functools.partial(
      example, side=side, shapes=shapes, textures=textures, noise=noise
    ),
    classes=2 * textures,
    shape=(side, side, 1),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, side: int, shapes: int, textures: int, noise: float
) -> Example:
  """Draws an image and its class."""
  kind, same = int(rng.integers(textures)), int(rng.integers(2))
  first = int(rng.integers(shapes))
  second = first if same else (first + int(rng.integers(1, shapes))) % shapes
  parts = [drawing.shape(drawing.SHAPES[one], _SIZE) for one in (first, second)]
  tile = drawing.texture(drawing.TEXTURES[kind], _SIZE, int(rng.integers(4)))
  image, half = np.full((side, side), 0.5), side // 2
  quarters = rng.permutation(4)  # the last one stays empty
  for quarter, part in zip(quarters, (*parts, tile), strict=False):
    top, left = rng.integers(half - _SIZE + 1, size=2)
    corner = int(top + half * (quarter // 2)), int(left + half * (quarter % 2))
    drawing.put(image, part, corner)[...] += 0.4 * part
  image += noise * rng.standard_normal(image.shape)
  return generated.picture(image[..., None], same * textures + kind)
