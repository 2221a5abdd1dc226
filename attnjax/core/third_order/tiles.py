"""The tiles of third-order attention in plain JAX, and what each of them reads."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.third_order.sight import Sight, folded, unfolded

# Scores of a tile, and of a problem that is computed whole, at most.
_SCORES, _WHOLE = 2**18, 2**21


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The size of a tile: heads x rows x first keys x second keys."""

  heads: int
  rows: int
  first: int
  second: int

  def ceil(self, S: int) -> int:
    """Returns the least number of whole tiles of both streams that is at least S."""
    whole = math.lcm(self.first, self.second)
    return -(-S // whole) * whole


def defaults(q, k1, sight: Sight) -> Tiles:
  """Returns tiles for q (B, T, N, H) and keys (B, S, K, H)."""
  (B, T, N, _), (S, K) = q.shape, k1.shape[1:3]
  if B * T * N * S * S <= _WHOLE:
    return Tiles(B * K, T * (N // K), S, S)
  rows = min(T * (N // K), 16 if any(sight.windows) else 32)
  first = min(S, 16)
  second = min(-(-S // first), 8) * first
  most = max(1, _SCORES // (rows * first * second))
  heads = max(h for h in range(1, B * K + 1) if B * K % h == 0 and h <= most)
  return Tiles(heads, rows, first, second)


@dataclasses.dataclass(frozen=True)
class Problem:
  """The arguments of a pass, folded and padded to whole tiles.

  Attributes:
    sight: who sees whom.
    tiles: the sizes.
    shape: (B, T, N / K, S).
    keys: k1, k2, v1, v2, (groups, heads, S, ...) each.
    ids: (of rows (groups, heads, blocks, rows), of keys (groups, heads, S)), or None.
    start: the position of the first query.
    lists: int32 (blocks, 4): the first tile and the number of tiles of each stream.
  """

  sight: Sight
  tiles: Tiles
  shape: tuple[int, ...]
  keys: tuple
  ids: Any
  start: Any
  lists: Any

  @classmethod
  def of(cls, q, k1, k2, v1, v2, data, sight: Sight, tiles: Tiles):
    """Returns the problem of a pass's arguments."""
    (B, T, N, _), (S, K) = q.shape, k1.shape[1:3]
    group = N // K
    wide, (ids, offset) = accumulator_dtype(q), data
    keys = tuple(
      _split(_end(folded(x.astype(wide), K), tiles.ceil(S)), tiles.heads)
      for x in (k1, k2, v1, v2)
    )
    start = sight.offset if offset is None else offset
    if ids is not None:
      rows = jnp.repeat(jnp.repeat(ids[0], group, axis=1), K, axis=0)
      columns = jnp.repeat(ids[1], K, axis=0)
      columns = _end(columns, keys[0].shape[2], -1)
      ids = _blocks(rows, tiles), _split(columns, tiles.heads)
    lists = _lists(sight, tiles, start, (T, group, S))
    return cls(sight, tiles, (B, T, group, S), keys, ids, start, lists)

  @property
  def whole(self) -> bool:
    """Returns whether there is one tile of pairs of keys."""
    return self.keys[0].shape[2] == self.tiles.first == self.tiles.second

  def rows(self, x, K: int):
    """Returns (B, T, N, ...) as (groups, heads, blocks, rows, ...)."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return _blocks(folded(x, K), self.tiles)

  def joined(self, x, like):
    """Returns (groups, blocks, heads, rows, ...) as (B, T, N, ...), as in `like`."""
    x = jnp.moveaxis(x, 2, 1)
    return unfolded(x.reshape(x.shape[0] * x.shape[1], -1, *x.shape[4:]), like)

  def seen(self, i, own, others, at, stream: int):
    """Returns which rows of block i see the tile `at` of keys, (heads|1, rows, keys).

    Args:
      i: the block's number.
      own: ids of its rows, (heads, rows), or None.
      others: ids of all keys, (heads, S), or None.
      at: the tile's number.
      stream: 0 or 1.
    """
    size = (self.tiles.first, self.tiles.second)[stream]
    place = (i * self.tiles.rows + jnp.arange(self.tiles.rows)) // self.shape[2]
    place, key = self.start + place[:, None], at * size + jnp.arange(size)
    found = self.sight.seen(place, key, stream)
    inside = jnp.broadcast_to(key < self.shape[3], (self.tiles.rows, size))
    found = (inside if found is None else found & inside)[None]
    if others is not None:
      key_ids = jax.lax.dynamic_slice_in_dim(others, at * size, size, axis=1)
      same = key_ids[:, None] == own[..., None]
      found = found & same & (key_ids >= 0)[:, None]
    return found


def _lists(sight: Sight, tiles: Tiles, start, shape):
  """Returns (blocks, 4): first tile and number of tiles of both streams, of a block."""
  T, group, S = shape
  i = jnp.arange(-(-T * group // tiles.rows), dtype=jnp.int32)
  last = jnp.minimum((i + 1) * tiles.rows, T * group) - 1
  found = []
  for stream, size in enumerate((tiles.first, tiles.second)):
    begin, end = sight.keys(
      start + i * tiles.rows // group, start + last // group, stream, S
    )
    begin = begin // size
    found += [begin, (-(-end // size) - begin).clip(0)]
  return jnp.stack(found, axis=1)


def _split(x, heads: int):
  """Returns (U, ...) as (groups, heads, ...)."""
  return x.reshape(-1, heads, *x.shape[1:])


def _blocks(x, tiles: Tiles):
  """Returns rows (U, R, ...) as (groups, heads, blocks, rows, ...), padded with 0."""
  blocks = -(-x.shape[1] // tiles.rows)
  x = _end(x, blocks * tiles.rows)
  return _split(x.reshape(x.shape[0], blocks, tiles.rows, *x.shape[2:]), tiles.heads)


def _end(x, size: int, fill=0):
  """Pads the second axis at its end to `size`."""
  widths = [(0, 0), (0, size - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
  return jnp.pad(x, widths, constant_values=fill)


def entry(x, i):
  """Returns entry i of the second axis."""
  return jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False)


def cut(x, at, size: int):
  """Returns tile `at` of `size` keys of (heads, S, ...)."""
  return jax.lax.dynamic_slice_in_dim(x, at * size, size, axis=1)


def added(x, part, at, size: int):
  """Returns (heads, S, ...) with a tile added."""
  return jax.lax.dynamic_update_slice_in_dim(x, cut(x, at, size) + part, at * size, 1)
