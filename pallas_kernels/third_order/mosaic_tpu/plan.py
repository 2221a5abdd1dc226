"""Tiles, and the grid steps that visit them.

Rows are (U, R, H): the `group` queries of a token that read a key head follow each
other, U is batch times heads of keys. The first stream is walked key by key, the second
one in tiles along the lanes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.third_order import Sight

LANES = 128
ROWS = 8  # keys of the first stream that a loop's turn reads


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernels.

  Attributes:
    rows: rows of a tile, a multiple of 128.
    first: keys of the first stream in a grid step, a multiple of 8.
    second: keys of the second stream in a grid step, a multiple of 128.
    joint: keys of the first stream that share a greatest score, 1, 2, 4 or 8.
    memory: bytes of fast memory (VMEM) that a kernel may take.
  """

  rows: int
  first: int
  second: int
  joint: int = 4
  memory: int = 48 << 20


def check(tiles: Tiles) -> None:
  """Raises ValueError, naming value and rule, for tiles that cannot run."""
  for name, unit in (("rows", LANES), ("first", ROWS), ("second", LANES)):
    value = getattr(tiles, name)
    if value < 1 or value % unit:
      raise ValueError(f"tiles.{name} {value} is not a multiple of {unit}")
  if tiles.joint not in (1, 2, 4, 8):
    raise ValueError(f"tiles.joint {tiles.joint} is none of 1, 2, 4, 8")


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static parameters of a kernel.

  Attributes:
    sight: who sees whom; the first stream is the one that is walked key by key.
    tiles: the sizes.
    units: batch times heads of keys.
    heads: heads of keys.
    tokens: queries.
    group: rows of a token.
    S: keys.
    exact: float32 products are not rounded to bfloat16.
    packed: whether there are ids of segments.
  """

  sight: Sight
  tiles: Tiles
  units: int
  heads: int
  tokens: int
  group: int
  S: int
  exact: bool
  packed: bool

  @property
  def sizes(self) -> tuple[int, int]:
    """Returns the keys of a grid step of both streams."""
    return self.tiles.first, self.tiles.second

  @property
  def blocks(self) -> int:
    """Returns the number of tiles of rows."""
    return -(-self.tokens * self.group // self.tiles.rows)

  def keys(self, i, start, stream: int) -> tuple[Any, Any]:
    """Returns [first, end) of a stream's tiles that a tile of rows sees."""
    begin, end = self.sight.keys(*self.positions(i, start), stream, self.S)
    size = self.sizes[stream]
    return jax.lax.div(begin, size), jax.lax.div(end + size - 1, size)

  def all_see(self, i, start, stream: int, tile) -> Any:
    """Returns whether all rows of a tile see all keys of a stream's tile."""
    begin, end = self.sight.all_see(*self.positions(i, start), stream, self.S)
    size = self.sizes[stream]
    return (begin <= tile * size) & ((tile + 1) * size <= end)

  def positions(self, i, start) -> tuple[Any, Any]:
    """Returns the positions of the first and of the last row of a tile."""
    last = jnp.minimum((i + 1) * self.tiles.rows, self.tokens * self.group) - 1
    first = jax.lax.div(i * self.tiles.rows, self.group)
    return start + first, start + jax.lax.div(last, self.group)

  def rows(self, j, start) -> tuple[Any, Any]:
    """Returns [first, end) of the tiles of rows that see a tile of the first stream."""
    size, window = self.tiles.first, self.sight.windows[0]
    first, last = j * size, jnp.minimum((j + 1) * size, self.S) - 1
    low, high = 0 * first, 0 * last + self.tokens
    if self.sight.causal:
      low = first - start
    elif window:
      low = first - window + 1 - start
    if window:
      high = last + window - start
    low, high = (x.clip(0, self.tokens) * self.group for x in (low, high))
    rows = self.tiles.rows
    return jax.lax.div(low, rows), jax.lax.div(high + rows - 1, rows)

  def steps(self, stream: int) -> int:
    """Returns the most tiles of a stream that a tile of rows sees."""
    size, window = self.sizes[stream], self.sight.windows[stream]
    every = -(-self.S // size)
    if not window:
      return every
    span = (self.tiles.rows - 1) // self.group + 2
    span += (window if self.sight.causal else 2 * window) - 1
    return min(every, (span + size - 2) // size + 1)

  def row_steps(self) -> int:
    """Returns the most tiles of rows that see a tile of the first stream."""
    window = self.sight.windows[0]
    if not window:
      return self.blocks
    span = self.tiles.first + (window if self.sight.causal else 2 * window) - 1
    return min(
      self.blocks, (span * self.group + self.tiles.rows - 2) // self.tiles.rows + 1
    )

  def seen(self, row, key, start, stream: int):
    """Returns whether rows see keys by their positions, integers that broadcast.

    Positions are compared in rows, so that no row is divided by the group.
    """
    window, group = self.sight.windows[stream], self.group
    place, found = key - start, key < self.S
    if self.sight.causal:
      found = found & (row >= place * group)
    elif window:
      found = found & (row >= (place - window + 1) * group)
    if window:
      found = found & (row < (place + window) * group)
    return found


def ceil(n: int, unit: int) -> int:
  """Returns the least multiple of `unit` that is at least n."""
  return -(-n // unit) * unit


def visited(at, ends):
  """Returns the tile that a step's number stands for, the last one after the end."""
  begin, end = ends
  return jnp.minimum(begin + at, jnp.maximum(end - 1, 0))
