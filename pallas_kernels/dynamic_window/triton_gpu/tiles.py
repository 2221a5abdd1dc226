"""The tiles of the GPU kernels, and their defaults."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The sizes of what a program works on.

  Attributes:
    pixels: pixels of a row of the map, a power of two from 16 on.
    near: pixels of the rows that are read beside these, likewise; a map of more columns
      than this needs those of all windows that hold one of the pixels, or that one of
      the pixels holds.
    warps: of 32 threads.
    queries_warps: of the kernel of the queries' gradients; `warps` if 0.
    stages: rows in flight from memory, the current one included.
    programs: of the backward pass over queries; each has a part of the rows of an entry
      of the batch and group, and its own sums of gradients.
  """

  pixels: int
  near: int
  warps: int = 4
  queries_warps: int = 0
  stages: int = 2
  programs: int = 512


def defaults(W: int, channels: int, size: int) -> Tiles:
  """Returns the default tiles, which spill no registers in a loop.

  Args:
    W: columns of the map.
    channels: of a query or of a value, the greater number.
    size: bytes of an element.
  """
  wide = power(channels) * size > 64
  if W > 32:
    return Tiles(16, 64, warps=8) if wide else Tiles(32, 64, queries_warps=8)
  side = power(W)
  return Tiles(side, side, warps=4 if wide or side == 32 else 1)


def check(tiles: Tiles, W: int, window: int) -> None:
  """Raises ValueError, naming value and rule, for tiles that cannot run."""
  for name in ("pixels", "near"):
    value = getattr(tiles, name)
    if value < 16 or value & (value - 1):
      raise ValueError(f"tiles.{name} {value} must be a power of two, at least 16")
  need = min(W, tiles.pixels + 3 * (window // 2))
  if tiles.near < need:
    raise ValueError(
      f"tiles.near {tiles.near} must be at least {need}, for {tiles.pixels} of {W}"
      f" columns and windows of {window}"
    )


def power(size: int) -> int:
  """Returns the least power of two that is at least `size` and at least 16."""
  return max(16, 1 << (size - 1).bit_length())
