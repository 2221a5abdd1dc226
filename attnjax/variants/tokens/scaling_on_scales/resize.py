"""Bicubic and area interpolation of images, a matrix an axis, which are constants."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import resample
from attnjax.core.dtypes import accumulator_dtype


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
  return _apply(x, *(resample.cubic(n, m) for n, m in zip(grid, x.shape[1:3])))


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
