"""The lean form: tiles of adjacent queries, each with the box of keys it needs.

The tokens of an axis are first put in an order in which each dilation group (of each
document) is contiguous; then both ends of a window grow with the query, and the keys
of a tile of queries are the box from its first window's start to its last window's
end. Inside a tile `attnjax.core.softmax` applies the exact mask. Tiles are about as
long as a window, so that all boxes together are O(prod S) keys, whatever the window.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import softmax, tiles, windows
from attnjax.core.scores import Scores

# Shortest tile for one, two and three axes: below it the products are too small to
# be fast.
SHORTEST = (64, 8, 4)
# Scores of one step of the loop over tiles: about 1 MB.
SCORES = 2**18


class Axis(NamedTuple):
  """What is static on one axis: see `neighborhood.attend`."""

  window: int
  stride: int
  dilation: int
  causal: bool


class _Plan(NamedTuple):
  """One axis cut in n tiles of t queries; b is B or 1.

  order (b, L): the token at each place, None if it stays. starts (b, n): first key of
  a tile's span of `size` keys. low, high (b, n, t): the window, from the span's start.
  """

  order: object
  starts: object
  low: object
  high: object
  size: int


def attend(q, k, v, axes, *, extra_k, extra_v, segment_ids, scale):
  """(out, lse) of `neighborhood.attend`, its arguments checked, `axes` a tuple."""
  grid, count = q.shape[1:-2], len(axes)
  tile = tuple(tile_length(length, a, count) for length, a in zip(grid, axes))
  plans = [_plan(length, a, t, segment_ids) for length, a, t in zip(grid, axes, tile)]
  q, k, v = (reorder(x, [p.order for p in plans]) for x in (q, k, v))
  box = tuple(p.size for p in plans)
  query = tiles.permute(q, tile)
  query = query.reshape(q.shape[0], -1, math.prod(tile), *q.shape[-2:])
  low, high = _intervals(plans, "low"), _intervals(plans, "high")
  scores = q.shape[0] * q.shape[-2] * math.prod(tile) * math.prod(box)
  together = max(1, SCORES // scores)

  def visit(part):
    query, key, value, low, high = part
    if extra_k is not None:
      key = jnp.concatenate([key, extra_k], axis=1)
      value = jnp.concatenate([value, extra_v], axis=1)
    scores = Scores(windows.Windows(low, high, box))
    return softmax.chunked(query, key, value, scores, scale=scale)

  parts = (query.swapaxes(0, 1), _boxes(k, plans), _boxes(v, plans), low, high)
  out, lse = jax.lax.map(visit, parts, batch_size=None if together == 1 else together)

  def join(x):
    x = tiles.unpermute(tiles.flat(x.swapaxes(0, 1), 2, 1), grid, tile)
    return reorder(x, [inverse_order(p.order) for p in plans])

  return join(out), join(lse)


def tile_length(length: int, axis: Axis, count: int) -> int:
  """Queries of a tile: about a window, whole stride groups."""
  most = max(axis.window, SHORTEST[count - 1])
  return min(length, -(-most // axis.stride) * axis.stride)


def _plan(length, axis, tile, segment_ids) -> _Plan:
  window, stride, dilation, causal = axis
  number = -(-length // tile)
  pad = ((0, 0), (0, number * tile - length))
  if segment_ids is None:
    order, low, high = windows.ordered(length, window, stride, dilation, causal)
    order, low, high, xp = order[None], low[None], high[None], np
    size = int((xp.pad(high, pad, "edge")[:, tile - 1 :: tile] - low[:, ::tile]).max())
  else:
    order, low, high = windows.packed(segment_ids, window, stride, dilation, causal)
    xp = jnp
    # A tile may begin at a document's last token and end at another one's first.
    size = min(length, tile + (window if causal else 2 * window - 1) - 1)
  starts = low[:, ::tile].clip(None, length - size)
  # Queries past the end have an empty interval.
  low, high = (xp.pad(x, pad).reshape(-1, number, tile) for x in (low, high))
  return _Plan(
    order if dilation > 1 else None,
    starts,
    low - starts[..., None],
    high - starts[..., None],
    size,
  )


def reorder(x, orders):
  """The tokens of each axis in a new order, (1, L) or (B, L); None leaves them."""
  for axis, order in enumerate(orders, start=1):
    if order is None:
      continue
    if order.shape[0] == 1:
      x = jnp.take(x, order[0], axis=axis)
    else:
      x = jax.vmap(lambda x, order: jnp.take(x, order, axis=0))(x, order)
  return x


def inverse_order(order):
  """The order that undoes one, None for None."""
  return None if order is None else order.argsort(axis=1)


def _intervals(plans, name):
  """(tiles, axes, b, prod t) int32: an axis's intervals at every query of a tile."""
  number = [p.low.shape[1] for p in plans]
  length = [p.low.shape[2] for p in plans]
  found = []
  for axis, plan in enumerate(plans):
    x = jnp.asarray(getattr(plan, name), jnp.int32)
    shape = [x.shape[0]] + [1] * (2 * len(plans))
    shape[1 + axis], shape[1 + len(plans) + axis] = x.shape[1:]
    x = jnp.broadcast_to(x.reshape(shape), (x.shape[0], *number, *length))
    found.append(x.reshape(-1, math.prod(number), math.prod(length)).swapaxes(0, 1))
  return jnp.stack(found, axis=1)


def _boxes(x, plans):
  """(B, *S, K, H) to (tiles, B, prod sizes, K, H)."""
  for i, plan in enumerate(plans):
    starts = plan.starts[0] if plan.starts.shape[0] == 1 else plan.starts
    x = tiles.spans(x, starts, plan.size, axis=1 + 2 * i, out=i)
  n = len(plans)
  return tiles.flat(tiles.flat(x, n), n, 2)
