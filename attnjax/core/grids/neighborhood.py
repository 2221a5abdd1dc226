"""Windows of keys on an axis: which keys a query sees, which queries see a key.

Ali Hassani et al. Generalized Neighborhood Attention. 2025. arXiv:2504.16922.

On an axis of length L with window w and stride s, the s queries of a stride group
share a leader e, and query i sees the keys of the half-open interval [a, b):

  e = min((i div s) s + s div 2, L - 1)                  not causal
  a = clip(e - w div 2, 0, L - w),  b = a + w
  e = min((i div s) s + s - 1, L - 1)                    causal
  a = max(e - w + 1, 0),            b = i + 1

An axis shorter than the window is seen whole. With dilation d the tokens i mod d = g
form a separate axis of length ceil((L - g) / d). Both bounds grow with i.

`bounds` and `inverse` take NumPy arrays and give NumPy arrays (static plans), or JAX
arrays, also traced.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from attnjax.core.exported import serializable
from attnjax.core.masks.algebra import Mask
from attnjax.core.masks.integers import div, rem

Index = Int[Array | np.ndarray, "..."]


def bounds(
  i: Index, length: Index | int, window: int, stride: int = 1, causal: bool = False
) -> tuple[Index, Index]:
  """Returns the keys [a, b) that the queries i see.

  Args:
    i: coordinates of queries on the axis.
    length: of the axis; a number, or one for each query.
    window: number of keys, at least 1.
    stride: number of adjacent queries that share a leader, at most `window`.
    causal: no key after the query.
  """
  length = length + 0 * i  # an array of the kind of i, which has `clip`
  if causal:
    leader = (i // stride * stride + stride - 1).clip(None, length - 1)
    return (leader - window + 1).clip(0), i + 1
  leader = (i // stride * stride + stride // 2).clip(None, length - 1)
  low = (leader - window // 2).clip(0, (length - window).clip(0))
  return low, (low + window).clip(None, length)


def inverse(
  j: Index, length: Index | int, window: int, stride: int = 1, causal: bool = False
) -> tuple[Index, Index]:
  """Returns the queries [lo, hi) that see the keys j; arguments are as in `bounds`."""
  length = length + 0 * j
  last = j >= length - window
  if causal:
    high = ((j + window) // stride * stride).clip(None, length)
    return j, high + last * (length - high)
  shift = window // 2 - stride // 2
  low = -((window - 1 - j - shift) // stride) * stride  # rounds up
  high = ((j + shift) // stride * stride + stride).clip(None, length)
  return low * (j >= window), high + last * (length - high)


def visits(
  length: int,
  window: int,
  stride: int,
  dilation: int,
  causal: bool,
  *,
  query: int,
  key: int,
  dynamic: bool = False,
) -> tuple[int, int]:
  """Returns (tiles of keys that tiles of queries visit, those of dense attention).

  Args:
    length: of the axis; each dilation group is cut into separate tiles.
    window: as in `bounds`.
    stride: as in `bounds`.
    dilation: tokens with equal i mod dilation form an axis.
    causal: as in `bounds`.
    query: queries of a tile.
    key: keys of a tile.
    dynamic: tiles of keys begin where the first window does, not at multiples of `key`.
  """
  visited = dense = 0
  for group in range(dilation):
    size = -(-(length - group) // dilation)
    first = np.arange(0, size, query)
    last = np.minimum(first + query, size) - 1
    rule = size, window, stride, causal
    low, high = bounds(first, *rule)[0], bounds(last, *rule)[1]
    found = -(-(high - low) // key) if dynamic else -(-high // key) - low // key
    visited += int(np.sum(found))
    dense += first.size * -(-size // key)
  return visited, dense


def ordered(
  length: int, window: int, stride: int, dilation: int, causal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (order, low, high) of an axis whose dilation groups are concatenated.

  order (L,): the token at each place. The query at place p sees the keys at the places
  [low[p], high[p]).
  """
  group = np.arange(length) % dilation
  order = np.argsort(group, kind="stable")
  return order, *_sorted(group[order], np, window, stride, causal)


def packed(
  segment_ids: Int[Array, "B L"],
  window: int,
  stride: int,
  dilation: int,
  causal: bool,
) -> tuple[Int[Array, "B L"], Int[Array, "B L"], Int[Array, "B L"]]:
  """Computes `ordered` with each run of equal ids as an axis; ids < 0 see nothing."""

  def row(ids):
    run, place, _ = runs(ids)
    group = run * dilation + place % dilation
    order = jnp.argsort(group, stable=True)
    low, high = _sorted(group[order], jnp, window, stride, causal)
    dead, index = ids[order] < 0, jnp.arange(ids.size)
    return order, jnp.where(dead, index, low), jnp.where(dead, index, high)

  return jax.vmap(row)(segment_ids)


def runs(ids: Int[Array, "L"]) -> tuple[Int[Array, "L"], ...]:
  """Returns each token's run of equal ids, its place there and the run's length."""
  run = jnp.cumsum(jnp.pad(ids[1:] != ids[:-1], (1, 0)))
  start, stop = (jnp.searchsorted(run, run, side=side) for side in ("left", "right"))
  return run, jnp.arange(ids.size) - start, stop - start


def _sorted(group, xp, window, stride, causal):
  """Returns bounds where equal numbers of the ascending `group` form an axis."""
  start, stop = (xp.searchsorted(group, group, side=side) for side in ("left", "right"))
  place = xp.arange(group.size) - start
  low, high = bounds(place, stop - start, window, stride, causal)
  return start + low, start + high


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Windows(Mask):
  """A mask made of one interval of keys on each axis.

  The keys are the points of a box in row-major order, then any number of extra keys,
  which every query sees whose intervals are not empty.

  Attributes:
    low: int32, (axes, B | 1, T), the first key of each query.
    high: int32, (axes, B | 1, T), one past the last key.
    box: the lengths of the axes.
    step: only every step-th key of an interval is seen.
  """

  low: Any
  high: Any
  box: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  step: int = dataclasses.field(default=1, metadata={"static": True})

  def operands(self):
    """Returns both ends of the interval on each axis."""
    ends = (x[axis] for axis in range(len(self.box)) for x in (self.low, self.high))
    return tuple(x[:, None, :, None] for x in ends)

  def seen(self, q, k, *operands):
    """Returns whether the key is in the query's interval on every axis."""
    del q
    inside, alive = [], []
    for axis, length in enumerate(self.box):
      low, high = operands[2 * axis : 2 * axis + 2]
      c = rem(div(k, math.prod(self.box[axis + 1 :])), length)
      inside += [low <= c, c < high]
      if self.step > 1:
        # Where c < low the value does not matter, but `rem` takes no negative number.
        inside.append(rem(jnp.maximum(c - low, 0), self.step) == 0)
      alive.append(low < high)
    seen, alive = (functools.reduce(jnp.logical_and, x) for x in (inside, alive))
    return jnp.where(k < math.prod(self.box), seen, alive)
