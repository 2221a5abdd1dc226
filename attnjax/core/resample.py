"""Averages over bins, linear and cubic interpolation, an axis at a time, as matrices.

The length of the axis may differ between the examples of a batch, and be traced. Where
none is given the matrices are constants; `area` and `bilinear` apply these to maps.
"""

import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax.core.dtypes import accumulator_dtype

SHARPNESS = -0.75  # a of `cubic`: that of torch, where `jax.image.resize` has -0.5


def bins(
  number: int, size: int, length: Int[Array, "B"] | None = None
) -> Float[Array, "#B P T"]:
  """Returns the (number, size) matrix of adaptive average pooling from points to bins.

  Its rows sum to 1. Bin i holds the points p with floor(i L / P) <= p < ceil((i + 1) L
  / P): bins overlap where P does not divide L.

  Args:
    number: P.
    size: T.
    length: L, at most T; T if None. Points from L on are in no bin; L = 0 gives zeros.
  """
  xp, total = _length(size, length)
  i, point = xp.arange(number)[None, :, None], xp.arange(size)[None, None]
  low, high = i * total // number, -(-(i + 1) * total // number)
  inside = ((low <= point) & (point < high)).astype(float)
  return _array(inside / xp.maximum(inside.sum(-1, keepdims=True), 1))


def linear(
  size: int, points: int, length: Int[Array, "B"] | None = None
) -> Float[Array, "#B T P"]:
  """Returns the (size, points) matrix of linear interpolation in a table of points.

  The centre of place t of L is at (t + 1/2) P / L - 1/2 in the table, clipped to it:
  half-pixel centres without smoothing.

  Args:
    size: T.
    points: P.
    length: L, T if None; places from L on have the table's last entry.
  """
  xp, total = _length(size, length)
  total, place = xp.maximum(total, 1), xp.arange(size)[None, :, None]
  centre = ((place + 0.5) * points / total - 0.5).clip(0, points - 1)
  return _array(xp.maximum(1 - abs(centre - xp.arange(points)[None, None]), 0))


@functools.cache
def cubic(size: int, points: int, *, corners: bool = False) -> np.ndarray:
  """Returns the (size, points) matrix of cubic convolution in a table of points.

  Robert Keys. Cubic convolution interpolation for digital image processing. 1981. With
  a = -0.75, and the table's ends repeated beyond it; fewer places are not smoothed.

  Args:
    size: T.
    points: P.
    corners: whether the first and the last place are the table's ends, so that place t
      is at t (P - 1) / (T - 1), a single one at 0; else centres are those of `linear`.
  """
  place = np.arange(size)
  if corners:
    centre = place * (points - 1) / max(size - 1, 1)
  else:
    centre = (place + 0.5) * points / size - 0.5
  tap = np.floor(centre)[:, None] + np.arange(-1, 3)
  t, a = abs(centre[:, None] - tap), SHARPNESS
  near = ((a + 2) * t - (a + 3)) * t * t + 1
  far = ((t - 5) * t + 8) * t * a - 4 * a
  weight = np.where(t <= 1, near, np.where(t < 2, far, 0))
  matrix = np.zeros((size, points))
  np.add.at(matrix, (place[:, None], tap.clip(0, points - 1).astype(int)), weight)
  return matrix


def area(x: Float[Array, "B h w D"], grid: tuple[int, ...]) -> Float[Array, "B y x D"]:
  """Averages maps over the cells that each new one covers, computed in float32.

  It is adaptive average pooling: cells repeat where the new map is larger.

  Args:
    x: the maps.
    grid: (y, x).
  """
  return on_both_axes(x, *(bins(n, m)[0] for n, m in zip(grid, x.shape[1:3])))


def bilinear(
  x: Float[Array, "B h w D"], grid: tuple[int, ...]
) -> Float[Array, "B y x D"]:
  """Interpolates maps linearly on both axes, computed in float32; see `linear`.

  Args:
    x: the maps.
    grid: (y, x).
  """
  return on_both_axes(x, *(linear(n, m)[0] for n, m in zip(grid, x.shape[1:3])))


def on_both_axes(
  x: Float[Array, "B h w D"],
  rows: Float[Array | np.ndarray, "y h"],
  columns: Float[Array | np.ndarray, "x w"],
) -> Float[Array, "B y x D"]:
  """Applies a matrix to each axis of maps, in float32; square ones are identities.

  Args:
    x: the maps.
    rows: to new rows.
    columns: to new columns.
  """
  if rows.shape[0] == rows.shape[1] and columns.shape[0] == columns.shape[1]:
    return x
  wide = accumulator_dtype(x)
  rows, columns = jnp.asarray(rows, wide), jnp.asarray(columns, wide)
  with jax.default_matmul_precision("highest"):
    y = jnp.einsum("yh,bhwc->bywc", rows, x.astype(wide))
    return jnp.einsum("xw,bywc->byxc", columns, y).astype(x.dtype)


def _length(size, length) -> tuple[ModuleType, Any]:
  """Returns what computes with the lengths, and the lengths."""
  if length is None:
    return np, np.full((1, 1, 1), size)
  return jnp, length[:, None, None]


def _array(x) -> Array:
  return jnp.asarray(x, jax.dtypes.canonicalize_dtype(float))
