"""Softmax attention on grids where a token sees an interval of keys on each axis.

Blocks of queries become a batch, each with the keys around it: nothing is gathered,
and the mask inside a block is two small arrays for each axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.core.grids.neighborhood import Windows
from attnjax.core.grids.partition import Halos, Partition, offsets
from attnjax.core.scores import Scores

BLOCK = 8  # tokens of a block on an axis, at most
# Maps (coordinates, length of the axis) to the half-open interval of visible keys.
Rule = Callable[[np.ndarray, int], tuple[Any, Any]]


def attend(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S K H"],
  v: Float[Array, "B *S K V"],
  rule: Sequence[Rule],
  *,
  dilation: Sequence[int],
  bias_table: Float[Array, "*R N"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
) -> tuple[Float[Array, "B *S N V"], Float[Array, "B *S N"]]:
  """Computes (out, lse) of attention where each token sees a box of keys.

  Args:
    q: queries on a grid of 1 to 3 axes.
    k: keys; K divides N.
    v: values.
    rule: for each axis, the interval of keys of each coordinate. An interval may go
      beyond the axis, where keys and values are zeros. A rule is also called with
      coordinates of padding, beyond the length, whose intervals have no effect.
    dilation: for each axis; tokens whose coordinates are equal modulo it form an axis
      of their own, in which coordinates and lengths count.
    bias_table: bias by key less query on each axis, whose size is odd; the middle entry
      belongs to the difference 0.
    scale: H^-0.5 if None.
    impl: as in `attnjax.attention`.
  """
  B, grid = q.shape[0], q.shape[1:-2]
  inner = tuple(-(-n // d) for n, d in zip(grid, dilation))
  classes = Partition(grid, inner, tuple(dilation))
  low, high, halos = _plan(grid, inner, dilation, rule)
  one, two, three = (
    classes.split(x).reshape(-1, *inner, *x.shape[-2:]) for x in (q, k, v)
  )
  cut = halos.blocks.split(one), halos.split(two), halos.split(three)
  one, two, three = (x.reshape(-1, *x.shape[2:]) for x in cut)
  bias = None if bias_table is None else _bias(bias_table, halos)
  if low.shape[1] > 1:
    low, high = (np.tile(x, (1, B, 1)) for x in (low, high))
  scores = Scores(Windows(low, high, halos.windows), bias=bias)
  out, lse = attention.attend(one, two, three, scores, scale=scale, impl=impl)

  def whole(y):
    tail = y.shape[2:]
    y = halos.blocks.join(y.reshape(-1, halos.number, *y.shape[1:]))
    return classes.join(y.reshape(B, classes.number, classes.tokens, *tail))

  return whole(out), whole(lse)


def _plan(grid, inner, dilation, rule):
  """Returns (low, high, halos): the intervals in each block's window of keys.

  low and high are (axes, G W, P) for G classes and W blocks, or (axes, 1, P) where all
  blocks have equal ones.
  """
  size = tuple(-(-n // -(-n // BLOCK)) for n in inner)
  lines, around = [], []
  for length, n, d, p, ends in zip(grid, inner, dilation, size, rule):
    blocks = -(-n // p)
    at = np.arange(blocks * p)
    found = [ends(at, (length - g + d - 1) // d) for g in range(d)]
    start = at // p * p
    low, high = (
      np.stack([np.broadcast_to(x, at.shape) - start for x in part]).reshape(d, -1, p)
      for part in zip(*found)
    )
    around.append(int(max(0, -low.min(), high.max() - p)))
    lines.append((low + around[-1], high + around[-1]))
  halos = Halos(inner, size, tuple(around))
  low, high = (np.stack(list(_outer(part))) for part in zip(*lines))
  if (low == low[:, :1]).all() and (high == high[:, :1]).all():
    low, high = low[:, :1], high[:, :1]
  return low.astype(np.int32), high.astype(np.int32), halos


def _outer(lines):
  """Yields each axis's array (d, w, p), broadcast to all axes, (G W, P)."""
  axes = len(lines)
  shape = tuple(line.shape[part] for part in range(3) for line in lines)
  for axis, line in enumerate(lines):
    own = [1] * (3 * axes)
    for part in range(3):
      own[part * axes + axis] = line.shape[part]
    tokens = int(np.prod(shape[2 * axes :]))
    yield np.broadcast_to(line.reshape(own), shape).reshape(-1, tokens)


def _bias(bias_table, halos) -> Float[Array, "1 N P Q"]:
  first = tuple(-h for h in halos.halo)
  between = offsets(halos.size, halos.windows, first)
  # Keys beyond the table are not seen.
  places = (
    np.clip(between[..., axis] + length // 2, 0, length - 1)
    for axis, length in enumerate(bias_table.shape[:-1])
  )
  return jnp.moveaxis(bias_table[tuple(places)], -1, 0)[None]
