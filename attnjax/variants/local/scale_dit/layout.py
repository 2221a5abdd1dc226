"""The layout: the order and the positions of the tokens of the three streams."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from attnjax.contract import check_known
from attnjax.core.grids import partition

MODES, SEES = ("sliding", "window"), ("limited", "all")
ORDERS = ("raster", "window", "hilbert", "released")
LOW_WINDOW = 4  # low-resolution tokens are put in order by windows of 4 x 4


@dataclasses.dataclass(frozen=True)
class Layout:
  """The tokens [text; image; low-resolution image] of a sequence.

  Attributes:
    grid: rows and columns of the image's tokens.
    low_grid: rows and columns of the low-resolution tokens; (0, 0) for none.
    text: number of text tokens.
    window: rows and columns of a window.
    kind: "sliding" or "window", see the package.
    text_sees: "limited" or "all".
    order: of the image's tokens: "raster", or window by window and inside a window row
      by row ("window"), along a Hilbert curve ("hilbert") or in the order of the
      released code ("released").
    dense: low-resolution tokens above this number are seen in parts.

  Raises:
    ValueError: for unknown names or numbers out of range.
  """

  grid: tuple[int, int]
  low_grid: tuple[int, int] = (0, 0)
  text: int = 0
  window: tuple[int, int] = (16, 16)
  kind: str = "sliding"
  text_sees: str = "limited"
  order: str = "window"
  dense: int = 256

  def __post_init__(self):
    for name in ("grid", "low_grid", "window"):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    for name, known in (("kind", MODES), ("text_sees", SEES), ("order", ORDERS)):
      check_known(name, getattr(self, name), known)
    least = {"grid": 1, "low_grid": 0, "window": 1}
    for name, bound in least.items():
      value = getattr(self, name)
      if len(value) != 2 or min(value) < bound:
        raise ValueError(f"{name} = {value}: two numbers, each at least {bound}")
    if self.text < 0 or self.dense < 1:
      raise ValueError(f"text = {self.text}, dense = {self.dense}: at least 0 and 1")

  @property
  def high(self) -> int:
    """Returns the number of the image's tokens."""
    return math.prod(self.grid)

  @property
  def low(self) -> int:
    """Returns the number of low-resolution tokens."""
    return math.prod(self.low_grid)

  @property
  def tokens(self) -> int:
    """Returns T, the number of all tokens."""
    return self.text + self.high + self.low

  def streams(self) -> Int[np.ndarray, "T"]:
    """Returns each token's stream: 0 text, 1 the image, 2 low resolution."""
    return np.repeat(np.arange(3), (self.text, self.high, self.low))

  def places(self) -> Int[np.ndarray, "P"]:
    """Returns the row-major index of the image's token at each place."""
    if self.order == "raster":
      return np.arange(self.high)
    curve = "raster" if self.order == "window" else self.order
    return window_order(self.grid, self.window, curve)

  def low_places(self) -> Int[np.ndarray, "L"]:
    """Returns the row-major index of the low-resolution token at each place.

    Above `dense` tokens they are in windows of 4 x 4.
    """
    if self.low <= self.dense:
      return np.arange(self.low)
    return window_order(self.low_grid, (LOW_WINDOW, LOW_WINDOW))

  def groups(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image tokens' visible parts, and the low-resolution tokens' parts.

    Windows in their order are split into equal runs, one for each part.
    """
    if self.low <= self.dense:
      return np.zeros(self.high, np.int32), np.zeros(self.low, np.int32)
    size = math.prod(self.window)
    parts = -(-self.low // size)
    counts = [-(-n // w) for n, w in zip(self.grid, self.window)]
    row, column = (x // w for x, w in zip(self.coordinates(), self.window))
    number = row * counts[1] + column
    run = -(-math.prod(counts) // parts)
    return number // run, np.arange(self.low) // size

  def coordinates(self) -> Int[np.ndarray, "2 P"]:
    """Returns the rows and columns of the image's tokens, in their order."""
    return np.stack(np.divmod(self.places(), self.grid[1]))

  def positions(self, scale: int = 0) -> Int[np.ndarray, "T 4"]:
    """Returns each token's (0, row, column, place in the text), for rotary positions.

    Args:
      scale: side of a low-resolution token's cell; the ratio of the sizes, rounded up,
        if 0.
    """
    ids = np.zeros((self.tokens, 4), np.int32)
    ids[: self.text, 3] = np.arange(self.text)
    ids[self.text : self.text + self.high, 1:3] = self.coordinates().T
    if self.low:
      scale = scale or -(-self.grid[0] // self.low_grid[0])
      anchors = anchor_positions(self.low_grid, scale)[self.low_places()]
      ids[self.text + self.high :, 1:3] = anchors
    return ids


def anchor_positions(low_grid: Sequence[int], scale: int) -> Int[np.ndarray, "L 2"]:
  """Returns the corner of each low-resolution token's cell, row by row."""
  return np.indices(tuple(low_grid)).reshape(2, -1).T * scale


def window_order(
  grid: Sequence[int], window: Sequence[int], curve: str = "raster"
) -> Int[np.ndarray, "P"]:
  """Returns the row-major indices of a grid's tokens, window by window.

  Args:
    grid: rows and columns of the grid.
    window: rows and columns of a window.
    curve: the order in a window, "raster", "hilbert" or "released".
  """
  inner = {
    "raster": lambda: None,
    "hilbert": lambda: partition.hilbert_order(tuple(window)),
    "released": lambda: _released(tuple(window)),
  }
  check_known("curve", curve, inner)
  return partition.window_order(tuple(grid), tuple(window), inner[curve]())


def _released(shape) -> np.ndarray:
  """Returns the order of the released code, a curve with another index of quadrants.

  From coarse to fine a quadrant (row, column) is flipped as for a Hilbert curve, but
  counts as 2 (row xor column) + row.
  """
  row, column = np.indices(shape).reshape(2, -1)
  side = 1 << max(0, (max(shape) - 1).bit_length())
  number = np.zeros_like(row)
  half = side // 2
  while half:
    r, c = ((x & half) // half for x in (row, column))
    number += half * half * (2 * (r ^ c) + r)
    flip = (r == 1) & (c == 0)
    row, column = (np.where(flip, side - 1 - x, x) for x in (row, column))
    row, column = np.where(c == 0, column, row), np.where(c == 0, row, column)
    half //= 2
  return np.argsort(number, kind="stable")
