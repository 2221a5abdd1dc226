"""Pictures of three glyphs among clutter, and heat maps of the glyphs' centres.

A picture has one plus, one cross (its diagonals) and one ring, bright on a dark ground,
which do not touch each other's squares; behind them lie fragments, quarters of glyphs
of all kinds, and normal noise is on top. What is near a pixel tells a line or an arc;
which glyph it is of, or that it is of none, takes a square of `SIDE` pixels.
"""

import numpy as np

from experiments.data import drawing
from experiments.data.task import check_least

GLYPHS = ("plus", "cross", "ring")
SIDE = 7  # of a glyph, in pixels; odd, so that its centre is a pixel
_QUARTER = SIDE // 2 + 1
_GROUND = 0.1
_BRIGHT = (0.6, 0.95)


def example(
  rng: np.random.Generator, size: int = 32, *, clutter: int = 12, noise: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
  """Draws a picture and the centres of its glyphs.

  Args:
    rng: of all draws.
    size: side of the picture, in pixels.
    clutter: number of fragments.
    noise: standard deviation of what is added to each pixel.

  Returns:
    The picture, float32 (size, size, 1) in [0, 1], and the centres, float32 (3, 2): row
    and column of each of GLYPHS.

  Raises:
    ValueError: if the picture is too small for three glyphs anywhere, or `clutter` or
      `noise` is negative.
  """
  # Two squares of forbidden corners leave one of the four corners of all places free.
  check_least(size=(size, 3 * SIDE - 1), clutter=(clutter, 0))
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  image = np.full((size, size), _GROUND)
  for _ in range(clutter):
    part = glyph(GLYPHS[int(rng.integers(len(GLYPHS)))])
    top, left = (rng.integers(2, size=2) * (SIDE - _QUARTER)).tolist()
    corner = rng.integers(size - _QUARTER + 1, size=2).tolist()
    _paint(image, rng, part[top : top + _QUARTER, left : left + _QUARTER], corner)
  corners = _corners(rng, size)
  for kind, corner in zip(GLYPHS, corners, strict=True):
    _paint(image, rng, glyph(kind), corner)
  image += noise * rng.standard_normal(image.shape)
  picture = np.clip(image, 0.0, 1.0).astype(np.float32)[..., None]
  return picture, np.asarray(corners, np.float32) + SIDE // 2


def heat_maps(centres: np.ndarray, size: int, sigma: float = 1.5) -> np.ndarray:
  """Returns exp(-distance^2 / (2 sigma^2)) to each centre, which is 1 at the centre.

  Args:
    centres: (K, 2), row and column in pixels.
    size: side of the maps.
    sigma: in pixels.

  Returns:
    float32 (size, size, K).
  """
  if not sigma > 0:
    raise ValueError(f"sigma = {sigma}; it must be above 0")
  line = np.arange(size)[:, None]
  down, right = ((line - centres[:, axis]) ** 2 for axis in (0, 1))
  apart = down[:, None] + right[None]
  return np.exp(-apart / (2 * sigma**2)).astype(np.float32)


def glyph(kind: str) -> np.ndarray:
  """Returns a glyph, (SIDE, SIDE), whose pixels are 1 inside and else 0.

  Args:
    kind: one of GLYPHS.
  """
  if kind == "plus":
    return drawing.shape("cross", SIDE)
  if kind == "ring":
    ring = drawing.shape("disc", SIDE)
    drawing.put(ring, ring[2:-2, 2:-2], (2, 2))[...] -= drawing.shape("disc", SIDE - 4)
    return ring
  down, right = np.indices((SIDE, SIDE)) - SIDE // 2
  return (np.minimum(abs(down - right), abs(down + right)) <= 1).astype(np.float64)


def _corners(rng: np.random.Generator, size: int) -> list[list[int]]:
  """Draws the corners of as many squares as there are glyphs, which do not overlap."""
  places = np.indices((size - SIDE + 1,) * 2).reshape(2, -1).T
  corners: list[list[int]] = []
  for _ in GLYPHS:
    chosen = places[int(rng.integers(len(places)))]
    places = places[abs(places - chosen).max(axis=1) >= SIDE]
    corners.append(chosen.tolist())
  return corners


def _paint(image: np.ndarray, rng: np.random.Generator, part, corner) -> None:
  """Paints a part in one brightness, over what is there."""
  under = drawing.put(image, part, corner)
  under[...] = np.where(part > 0, rng.uniform(*_BRIGHT), under)
