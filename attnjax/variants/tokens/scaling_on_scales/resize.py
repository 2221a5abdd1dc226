"""Bicubic interpolation of images, a matrix an axis, which are constants."""

from jaxtyping import Array, Float

from attnjax.core import resample


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
  return resample.on_both_axes(
    x, *(resample.cubic(n, m) for n, m in zip(grid, x.shape[1:3]))
  )
