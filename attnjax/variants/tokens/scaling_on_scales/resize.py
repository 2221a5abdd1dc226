"""Bicubic and area interpolation of images, a matrix an axis, which are constants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.core import resample
from attnjax.core.dtypes import accumulator_dtype

SHARPNESS = -0.75  # a: that of torch, where `jax.image.resize` has -0.5


def bicubic(
  x: Float[Array, "B H W C"], grid: tuple[int, int]
) -> Float[Array, "B h w C"]:
  """Interpolates images by cubic convolution, in the type of x, computed in float32.

  Robert Keys. Cubic convolution interpolation for digital image processing. 1981. With
  a = -0.75, half-pixel centres and edges repeated; smaller images are not smoothed.

  Args:
    x: the images.
    grid: (h, w).
  """
  return _apply(x, *(_cubic(n, m) for n, m in zip(grid, x.shape[1:3])))


def area(x: Float[Array, "B h w D"], grid: tuple[int, int]) -> Float[Array, "B y x D"]:
  """Averages maps over the cells that each new one covers, computed in float32.

  It is adaptive average pooling: cells repeat where the new map is larger.

  Args:
    x: the maps.
    grid: (y, x).
  """
  return _apply(x, *(resample.bins(n, m)[0] for n, m in zip(grid, x.shape[1:3])))


def _apply(x, rows, columns):
  if rows.shape[0] == rows.shape[1] and columns.shape[0] == columns.shape[1]:
    return x
  wide = accumulator_dtype(x)
  rows, columns = jnp.asarray(rows, wide), jnp.asarray(columns, wide)
  with jax.default_matmul_precision("highest"):
    y = jnp.einsum("yh,bhwc->bywc", rows, x.astype(wide))
    return jnp.einsum("xw,bywc->byxc", columns, y).astype(x.dtype)


@functools.cache
def _cubic(number: int, size: int) -> np.ndarray:
  """Returns the (number, size) matrix from points to their interpolations."""
  centre = (np.arange(number) + 0.5) * size / number - 0.5
  tap = np.floor(centre)[:, None] + np.arange(-1, 3)
  t, a = abs(centre[:, None] - tap), SHARPNESS
  near = ((a + 2) * t - (a + 3)) * t * t + 1
  far = ((t - 5) * t + 8) * t * a - 4 * a
  weight = np.where(t <= 1, near, np.where(t < 2, far, 0))
  matrix = np.zeros((number, size))
  place = tap.clip(0, size - 1).astype(int)
  np.add.at(matrix, (np.arange(number)[:, None], place), weight)
  return matrix
