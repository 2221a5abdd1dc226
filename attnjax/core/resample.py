"""Averages over bins and linear interpolation, one axis at a time, as matrices.

The length of the axis may differ between the examples of a batch, and be traced. Where
none is given the matrices are constants.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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


def _length(size, length) -> tuple[ModuleType, Any]:
  """Returns what computes with the lengths, and the lengths."""
  if length is None:
    return np, np.full((1, 1, 1), size)
  return jnp, length[:, None, None]


def _array(x) -> Array:
  return jnp.asarray(x, jax.dtypes.canonicalize_dtype(float))
