"""The tiles of the GPU kernels, and their defaults by chip, type and size of heads."""

import dataclasses

import jax.numpy as jnp

from attnjax.core.platform import target_capability, target_platform

DTYPES = ("float32", "bfloat16", "float16")
WIDEST = 256  # elements of a head


@dataclasses.dataclass(frozen=True)
class Tile:
  """The tile of a kernel.

  Attributes:
    rows: rows of queries, a power of two from 16 on.
    second: keys of the second stream, a power of two from 16 on.
    warps: of 32 threads.
    stages: tiles in flight from memory, the current one included.
  """

  rows: int
  second: int
  warps: int = 4
  stages: int = 2


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of the three kernels."""

  forward: Tile
  queries: Tile
  keys: Tile


# By capability and bytes of an element: (H and V at most, the tiles of forward pass,
# queries and keys) with the fewest instructions a score found among those that spill
# nothing with jaxlib's oldest assembler (`experiments.bench lowering`).
_SINGLE = (
  (64, Tile(32, 32, 4, 2), Tile(16, 32, 4, 2), Tile(16, 32, 4, 2)),
  (128, Tile(16, 32, 4, 2), Tile(16, 16, 4, 2), Tile(16, 32, 4, 1)),
  (256, Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1)),
)
_DEFAULTS = {
  80: {
    2: (
      (64, Tile(128, 64, 4, 2), Tile(64, 64, 4, 2), Tile(32, 64, 4, 2)),
      (128, Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
      (256, Tile(64, 32, 8, 1), Tile(32, 32, 4, 1), Tile(32, 32, 8, 1)),
    ),
    4: _SINGLE,
  },
  90: {
    2: (
      (64, Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
      (128, Tile(128, 128, 8, 1), Tile(64, 64, 4, 1), Tile(64, 64, 8, 2)),
      (256, Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 8, 1)),
    ),
    4: _SINGLE,
  },
  100: {
    2: (
      (64, Tile(64, 64, 4, 2), Tile(64, 64, 4, 1), Tile(64, 64, 4, 2)),
      (128, Tile(64, 64, 4, 1), Tile(64, 64, 8, 1), Tile(64, 64, 8, 2)),
      (256, Tile(64, 64, 8, 1), Tile(64, 32, 8, 1), Tile(32, 32, 8, 1)),
    ),
    4: _SINGLE,
  },
}
# As 80, but where that spills. 120 has no tensor memory and no warp-group products.
_DEFAULTS[86] = _DEFAULTS[120] = {
  2: (
    (64, Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
    (128, Tile(64, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
    *_DEFAULTS[80][2][2:],
  ),
  4: _SINGLE,
}


def check(tile: Tile) -> None:
  """Raises ValueError, naming value and rule, for a tile that cannot run."""
  for field in ("rows", "second"):
    value = getattr(tile, field)
    if value < 16 or value & (value - 1):
      raise ValueError(f"tile.{field} {value} must be a power of two, at least 16")


def defaults(R: int, S: int, H: int, V: int, dtype) -> Tiles:
  """Returns the default tiles of R rows and S keys on the target device."""
  capability = (target_capability() if target_platform() == "gpu" else None) or 90
  size, width = jnp.dtype(dtype).itemsize, max(power(H), power(V))
  tiles = _listed(capability, size, width)
  return Tiles(*(_shortened(tile, R, S) for tile in tiles))


def _listed(capability: int, size: int, width: int) -> tuple[Tile, Tile, Tile]:
  """Returns the tiles of the three kernels before they are shortened."""
  chip = max((c for c in _DEFAULTS if c <= capability), default=min(_DEFAULTS))
  return next(tiles for most, *tiles in _DEFAULTS[chip][size] if width <= most)


def _shortened(tile: Tile, R: int, S: int) -> Tile:
  """Returns a tile that is no longer than the problem."""
  rows, second = min(tile.rows, power(R)), min(tile.second, power(S))
  return Tile(rows, second, tile.warps, tile.stages)


def power(size: int) -> int:
  """Returns the least power of two that is at least `size` and at least 16."""
  return max(16, 1 << (size - 1).bit_length())


def ceil(n: int, unit: int) -> int:
  """Returns the least multiple of `unit` that is at least n."""
  return -(-n // unit) * unit
