"""Averages over bins and linear interpolation, one axis at a time, as matrices.

The length of the axis may differ between the examples of a batch, and be traced.
"""

import jax.numpy as jnp
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
  total = _length(size, length)
  i, point = jnp.arange(number)[None, :, None], jnp.arange(size)[None, None]
  low, high = i * total // number, -(-(i + 1) * total // number)
  inside = ((low <= point) & (point < high)).astype(float)
  return inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)


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
  total = jnp.maximum(_length(size, length), 1)
  place = jnp.arange(size)[None, :, None]
  centre = ((place + 0.5) * points / total - 0.5).clip(0, points - 1)
  return jnp.maximum(1 - jnp.abs(centre - jnp.arange(points)[None, None]), 0)


def _length(size, length):
  return jnp.full((1, 1, 1), size) if length is None else length[:, None, None]
