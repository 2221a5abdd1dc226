"""Crops of photographs that travel inside scikit-learn, a region for each split.

The photographs, china.jpg and flower.jpg (427 x 640), are of `sklearn.datasets`. The
split train has their left four fifths, validation and test have half each of the rest,
so that no pixel is in two splits.
"""

import functools

import numpy as np

from experiments.data import packaged
from experiments.data.task import check_split

NAMES = ("china", "flower")
SIDE = 64  # the largest crop: the width of the narrowest region
_PLACES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


@functools.cache
def region(name: str, split: str) -> np.ndarray:
  """Returns a split's region of a photograph, (427, W, 3) float32 in [0, 1].

  Raises:
    FileNotFoundError: if scikit-learn is not installed.
  """
  from PIL import Image

  first, last = _PLACES[check_split(split)]
  path = packaged.find(
    "sklearn", f"datasets/images/{name}.jpg", install="scikit-learn>=1.8"
  )
  with Image.open(path) as file:
    pixels = np.asarray(file.convert("RGB"), np.float32) / 255
  width = pixels.shape[1]
  return pixels[:, round(first * width) : round(last * width)]


def crop(rng: np.random.Generator, split: str, side: int) -> np.ndarray:
  """Draws a crop (side, side, 3) of a photograph: at half its size or at its own.

  It is mirrored with probability 1/2.

  Raises:
    ValueError: if no crop of that side is in a region.
  """
  if not 1 <= side <= SIDE:
    raise ValueError(f"side = {side}; crops of photographs have 1 to {SIDE} pixels")
  whole = region(NAMES[int(rng.integers(len(NAMES)))], split)
  scale = int(rng.integers(1, 1 + min(2, SIDE // side)))
  top, left = (int(rng.integers(n - scale * side + 1)) for n in whole.shape[:2])
  part = whole[top : top + scale * side, left : left + scale * side]
  part = part.reshape(side, scale, side, scale, 3).mean(axis=(1, 3), dtype=np.float32)
  return part[:, ::-1] if rng.integers(2) else part
