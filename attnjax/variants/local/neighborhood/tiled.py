"""The memory-lean algorithm: tiles of adjacent queries, each with its box of keys.

The tokens of an axis are first put in an order in which each dilation group (of each
document) is contiguous; then both ends of a window grow with the query, and the keys of
a tile of queries are the box from its first window's start to its last window's end.
Inside a tile `attnjax.core.softmax` applies the exact mask. Tiles are about as long as
a window, so that all boxes together have O(prod S) keys, for any window.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnjax.core import softmax
from attnjax.core.grids import neighborhood
from attnjax.core.grids import permutation as tiles
from attnjax.core.scores import Scores

# Shortest tile for one, two and three axes: matrix products of shorter ones are too
# small to be fast.
SHORTEST = (64, 8, 4)


class Axis(NamedTuple):
  """The static options of one axis; see `neighborhood.attend`."""

  window: int
  stride: int
  dilation: int
  causal: bool


class _Plan(NamedTuple):
  """One axis cut in n tiles of t queries; b is B or 1.

  queries (b, n, t): the tokens of the queries. keys (b, n, size): the tokens of each
  box of keys. low, high (b, n, t): the window, from the box's start. tile, inner (b,
  L): the tile of each token's query, and its place inside.
  """

  queries: Any
  keys: Any
  low: Any
  high: Any
  tile: Any
  inner: Any


def attend(q, k, v, axes, *, extra_k, extra_v, segment_ids, scale):
  """Returns (out, lse) of `neighborhood.attend`; arguments are checked."""
  grid, B = q.shape[1:-2], q.shape[0]
  sides = tuple(tile_length(n, a, len(axes)) for n, a in zip(grid, axes))
  plans = [_plan(n, a, t, segment_ids) for n, a, t in zip(grid, axes, sides)]
  flat = (x.reshape(B, -1, *x.shape[-2:]) for x in (q, k, v))
  index = _numbers([p.queries for p in plans], grid)
  box = _numbers([p.keys for p in plans], grid)
  query, key, value = map(tiles.rows, flat, (index, box, box))
  if extra_k is not None:
    number = box.shape[1]
    key, value = (
      jnp.concatenate([x, jnp.repeat(extra, number, axis=0)], axis=1)
      for x, extra in ((key, extra_k), (value, extra_v))
    )
  low, high = (_intervals(ends, B) for ends in zip(*((p.low, p.high) for p in plans)))
  scores = Scores(
    neighborhood.Windows(low, high, tuple(p.keys.shape[2] for p in plans))
  )
  out, lse = softmax.chunked(query, key, value, scores, scale=scale)
  counts = [p.queries.shape[1] for p in plans]
  place = _numbers([p.tile[..., None] for p in plans], counts) * math.prod(sides)
  place = place + _numbers([p.inner[..., None] for p in plans], sides)

  def join(x):
    x = x.reshape(B, -1, *x.shape[2:])
    return tiles.rows(x, place).reshape(B, *grid, *x.shape[2:])

  return join(out), join(lse[..., None])[..., 0]


def tile_length(length: int, axis: Axis, count: int) -> int:
  """Returns the queries of a tile: about a window, a multiple of the stride."""
  most = 1 << max(axis.window, SHORTEST[count - 1]).bit_length() - 1
  return min(length, -(-most // axis.stride) * axis.stride)


def _plan(length, axis, tile, segment_ids) -> _Plan:
  number = -(-length // tile)
  pad = ((0, 0), (0, number * tile - length))
  if segment_ids is None:
    xp: Any = np
    order, low, high = neighborhood.ordered(length, *axis)
    order, low, high = order[None], low[None], high[None]
    last = np.pad(high, pad, "edge")[:, tile - 1 :: tile]
    size = int((last - low[:, ::tile]).max())
  else:
    xp = jnp
    order, low, high = neighborhood.packed(segment_ids, *axis)
    # A tile may begin at a document's last token and end at another one's first.
    reach = axis.window if axis.causal else 2 * axis.window - 1
    size = min(length, tile + reach - 1)
  starts = low[:, ::tile].clip(None, length - size)[..., None]
  queries = xp.pad(order, pad).reshape(-1, number, tile)
  keys: Any = starts + np.arange(size)[None, None]
  keys = xp.take_along_axis(order, keys.reshape(keys.shape[0], -1), axis=1)
  # Queries past the end have an empty interval.
  low, high = (xp.pad(x, pad).reshape(-1, number, tile) - starts for x in (low, high))
  place = xp.argsort(order, axis=1)
  keys = keys.reshape(-1, number, size)
  return _Plan(queries, keys, low, high, place // tile, place % tile)


def _spread(lines):
  """Yields arrays (b, n, p), one an axis, as (b, *n, *p), of length 1 on other axes."""
  for axis, line in enumerate(lines):
    shape = [line.shape[0]] + [1] * (2 * len(lines))
    shape[1 + axis], shape[1 + len(lines) + axis] = line.shape[1:]
    yield line.reshape(shape)


def _numbers(lines, lengths):
  """Returns points' row-major indices, (b, prod n, prod p), from (b, n, p) an axis."""
  total: Any = 0
  for part, length in zip(_spread(lines), lengths):
    total = total * length + part
  tiles = math.prod(line.shape[1] for line in lines)
  return total.reshape(total.shape[0], tiles, -1).astype(np.int32)


def _intervals(lines, B):
  """Returns one end of each axis's intervals for every tile's queries.

  It is int32, (axes, B tiles, prod t).
  """
  parts = [jnp.asarray(part, jnp.int32) for part in _spread(lines)]
  whole = (B, *jnp.broadcast_shapes(*(part.shape for part in parts))[1:])
  tokens = math.prod(line.shape[2] for line in lines)
  return jnp.stack([jnp.broadcast_to(x, whole).reshape(-1, tokens) for x in parts])
