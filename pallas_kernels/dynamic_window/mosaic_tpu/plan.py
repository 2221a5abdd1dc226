"""Tiles of a map, their halos, and where the window of a pixel lies in a halo.

Entries of the batch and groups lie along the lanes, since nothing joins them. Pixels of
a tile are visited one after the other: where its window begins is then a number, and no
lane is moved. The taps of a row of the window lie along the sublanes.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

LANES, SUBLANES = 128, 8
# The logit of a tap that only fills up a row of taps, and of no pixel's sum.
LEAST = -1e30
# Elements a lane of keys and values of a window, up to which a loop over its rows is
# unrolled, which costs less than the loop's latencies. Of 14 x 14 pixels, 7 x 7 taps of
# 16 channels on v5e, bundles a pixel: forward 330 in a loop and 230 without, backward
# 740 and 490.
UNROLLED = 7 * 8 * 32


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernels.

  Attributes:
    rows: rows of the map in a tile.
    columns: columns of the map in a tile.
    memory: bytes of fast memory (VMEM) that a kernel may take.
  """

  rows: int
  columns: int
  memory: int = 48 << 20


# Bytes that a kernel may take, by the device's kind.
_MEMORY = {
  "TPU v5 lite": 96 << 20,
  "TPU v5e": 96 << 20,
  "TPU v6 lite": 96 << 20,
  "TPU v6e": 96 << 20,
  "TPU v4": 14 << 20,
}


def memory(device: str) -> int:
  """Returns the bytes of fast memory that a kernel may take on a kind of device."""
  return _MEMORY.get(device, 48 << 20)


@dataclasses.dataclass(frozen=True)
class Axis:
  """The tiles of an axis of the map.

  The last tile ends with the map, and may begin inside the one before it. A halo has
  all windows of its tile.

  Attributes:
    length: of the axis.
    size: of a tile, from window // 2 + 1 to `length`.
    window: taps of a window.
  """

  length: int
  size: int
  window: int

  @property
  def starts(self) -> list[int]:
    """Returns the first pixels of the tiles."""
    count = -(-self.length // self.size)
    return [min(i * self.size, self.length - self.size) for i in range(count)]

  @property
  def halo(self) -> int:
    """Returns the pixels of a halo."""
    return min(self.size + 2 * (self.window // 2), self.length)

  @property
  def halo_starts(self) -> list[int]:
    """Returns the first pixels of the halos."""
    most, near = self.length - self.halo, self.window // 2
    return [int(np.clip(start - near, 0, most)) for start in self.starts]

  def place(self, tile, pixel) -> tuple[Any, Any]:
    """Returns where a pixel's window begins: in a table of distances, in the halo."""
    near, start = self.window // 2, tile * self.size
    start = jnp.minimum(start, self.length - self.size)
    halo = jnp.clip(start - near, 0, self.length - self.halo)
    first = jnp.clip(start + pixel - near, 0, self.length - self.window)
    return first - (start + pixel) + self.window - 1, first - halo


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static parameters of a kernel.

  Attributes:
    rows: the tiles of the map's rows.
    columns: the tiles of its columns.
    d: channels of a query.
    c: channels of a value.
    narrow: whether values are of 16 bits, whose rows cannot be read from any place on.
  """

  rows: Axis
  columns: Axis
  d: int
  c: int
  narrow: bool

  @property
  def window(self) -> int:
    """Returns the taps on a side of a window."""
    return self.rows.window

  @property
  def taps(self) -> int:
    """Returns the sublanes of a row of taps."""
    return ceil(self.window, SUBLANES)

  @property
  def unrolled(self) -> bool:
    """Returns whether the rows of a window follow each other without a loop."""
    return self.window * self.taps * (self.d + self.c) <= UNROLLED

  @property
  def tiles(self) -> tuple[int, int]:
    """Returns the tiles along both axes."""
    return len(self.rows.starts), len(self.columns.starts)

  @property
  def width(self) -> int:
    """Returns the columns of a halo: a row of taps is read from any window on."""
    return ceil(self.columns.halo - self.window + self.taps, SUBLANES)

  @property
  def distances(self) -> int:
    """Returns the columns of the table of distances, which is read likewise."""
    return ceil(self.window - 1 + self.taps, SUBLANES)


def ceil(n: int, unit: int) -> int:
  """Returns the least multiple of `unit` that is at least n."""
  return -(-n // unit) * unit
