"""Orders of a grid's tokens, and coordinates of keys relative to queries."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax.core.grids.partition import sizes
from attnjax.core.grids.partition.sizes import Sizes
from attnjax.core.grids.partition.windows import Partition


def offsets(
  size: Sequence[int], keys: Sequence[int] | None = None, first: Sizes = 0
) -> Int[np.ndarray, "P Q axes"]:
  """Returns the coordinates of a window's keys relative to its queries, on each axis.

  Args:
    size: the window of the queries.
    keys: the window of the keys, if it differs.
    first: the coordinates of the first key where the queries begin at 0: -halo.
  """
  keys = size if keys is None else keys
  first = sizes.entries("first", first, len(size), None)
  at, of = (np.indices(tuple(s)).reshape(len(s), -1).T for s in (size, keys))
  return of[None] + np.array(first) - at[:, None]


def relative(table: Float[Array, "N *R"]) -> Float[Array, "N P P"]:
  """Returns, for each query and key of a window, the entry of a table of offsets.

  Entry d + p - 1 on an axis of 2 p - 1 entries belongs to the offset d of the key from
  the query. The result is made of slices, so that the gradient does not scatter.
  """
  axes = table.ndim - 1
  for axis in range(1, 1 + 2 * axes, 2):
    p = (table.shape[axis] + 1) // 2
    rows = [
      jax.lax.slice_in_dim(table, p - 1 - i, 2 * p - 1 - i, axis=axis) for i in range(p)
    ]
    table = jnp.stack(rows, axis=axis)
  order = [0, *range(1, 1 + 2 * axes, 2), *range(2, 2 + 2 * axes, 2)]
  P = math.prod(table.shape[1 : 1 + 2 * axes : 2])
  return table.transpose(order).reshape(table.shape[0], P, P)


def window_order(
  shape: Sequence[int], size: Sizes, inner: Int[np.ndarray, "P"] | None = None
) -> Int[np.ndarray, "T"]:
  """Returns the row-major indices of a grid's tokens, window by window.

  Args:
    shape: S.
    size: of the windows; they need not tile the grid.
    inner: the order of a window's tokens, such as `hilbert_order(size)`; row by row
      if None.
  """
  places = Partition(tuple(shape), size).places()
  places = places if inner is None else places[:, inner]
  return places[places >= 0]


def hilbert_order(shape: Sequence[int]) -> Int[np.ndarray, "T"]:
  """Returns the row-major indices of a grid's tokens along a Hilbert curve.

  The curve is that of the smallest cube of a power of two that holds the grid; on
  such a cube successive tokens are neighbours.

  John Skilling. Programming the Hilbert curve. AIP Conference Proceedings 707, 2004.
  """
  bits = max(1, (max(shape) - 1).bit_length())
  x = list(np.indices(tuple(shape)).reshape(len(shape), -1))
  for bit in reversed(range(1, bits)):
    low = (1 << bit) - 1
    for axis in range(len(x)):
      set_ = (x[axis] >> bit) & 1 == 1
      swapped = np.where(set_, 0, (x[0] ^ x[axis]) & low)
      x[0], other = np.where(set_, x[0] ^ low, x[0] ^ swapped), x[axis] ^ swapped
      if axis:
        x[axis] = other
  for axis in range(1, len(x)):
    x[axis] = x[axis] ^ x[axis - 1]
  flip = np.zeros_like(x[0])
  for bit in reversed(range(1, bits)):
    flip = flip ^ np.where((x[-1] >> bit) & 1 == 1, (1 << bit) - 1, 0)
  number = np.zeros_like(x[0])
  for bit in reversed(range(bits)):
    for coordinate in x:
      number = 2 * number + (((coordinate ^ flip) >> bit) & 1)
  return np.argsort(number).astype(np.int32)


def inverse(order: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
  """Returns the order that undoes `order`, so that x[:, order][:, back] is x."""
  return np.argsort(order).astype(np.int32)
