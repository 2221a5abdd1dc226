"""Images as the data set `shapes` draws them, and where their objects are.

The data set does not say the place. Its defaults: 32 x 32 pixels, four shapes of 11 to
15 pixels in three colours, ten squares of clutter, noise of 0.1.
"""

import functools

import numpy as np

from experiments.data import drawing
from experiments.data.sets import shapes
from experiments.data.task import SPLITS

SIDE = 32


@functools.cache
def located(
  seed: int, split: str, patch: int, number: int = 512
) -> tuple[np.ndarray, np.ndarray]:
  """Returns images (B, 32, 32, 3), and the patches (B, P) that objects cover by half.

  Args:
    seed: of the images.
    split: "train", "validation" or "test".
    patch: side of the patches, which are counted row by row.
    number: B.
  """
  rng = np.random.default_rng([seed, SPLITS.index(split), 1])
  images, covered = [], []
  for _ in range(number):
    image = np.full((SIDE, SIDE, 3), 0.1)
    for _ in range(10):
      _painted(image, rng, np.ones((3, 3)), int(rng.integers(3)))
    kind = drawing.SHAPES[int(rng.integers(4))]
    part = drawing.shape(kind, int(rng.integers(11, 16)))
    images.append(image)
    covered.append(_painted(image, rng, part, int(rng.integers(3))))
    image += 0.1 * rng.standard_normal(image.shape)
  cells = np.array(covered).reshape(-1, SIDE // patch, patch, SIDE // patch, patch)
  share = cells.mean(axis=(2, 4)).reshape(number, -1)
  return np.clip(images, 0.0, 1.0).astype(np.float32), share >= 0.5


def _painted(image, rng, part, colour):
  """Paints a part somewhere; returns the pixels that it covers."""
  corner = rng.integers(SIDE - len(part) + 1, size=2)
  mask = np.zeros((SIDE, SIDE), bool)
  drawing.put(mask, part, (int(corner[0]), int(corner[1])))[...] = part > 0
  image[mask] = shapes.COLOURS[colour]
  return mask
