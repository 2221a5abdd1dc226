"""Shapes and textures of generated images."""

import numpy as np

SHAPES = ("square", "cross", "disc", "triangle")
TEXTURES = ("rows", "columns", "diagonals", "chessboard")


def shape(kind: str, size: int) -> np.ndarray:
  """Returns a filled shape, (size, size), whose pixels are 1 inside and else 0.

  Args:
    kind: one of SHAPES; a triangle points up, a cross has arms of a third of `size`.
    size: its side or diameter, in pixels.
  """
  line = np.arange(size) - (size - 1) / 2
  down, right = line[:, None], line[None, :]
  if kind == "disc":
    inside = down**2 + right**2 <= (size / 2) ** 2
  elif kind == "square":
    inside = np.ones((size, size), bool)
  elif kind == "triangle":
    inside = 2 * abs(right) <= down + (size + 1) / 2
  else:
    arm = size / 6
    inside = (abs(down) <= arm) | (abs(right) <= arm)
  return inside.astype(np.float64)


def texture(kind: str, size: int, phase: int) -> np.ndarray:
  """Returns a texture of period 4 of +1 and -1, (size, size).

  Args:
    kind: one of TEXTURES; "rows" varies from row to row only.
    size: its side, in pixels.
    phase: pixels by which it is shifted, 0 to 3.
  """
  down, right = np.indices((size, size)) + phase
  if kind == "chessboard":
    return 1.0 - 2.0 * ((down // 2 + right // 2) % 2)
  along = {"rows": down, "columns": right, "diagonals": down + right}[kind]
  return 1.0 - 2.0 * (along // 2 % 2)


def put(image: np.ndarray, part: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
  """Returns the view of an image (H, W, ...) that a part would cover at a corner."""
  top, left = corner
  return image[top : top + part.shape[0], left : left + part.shape[1]]
