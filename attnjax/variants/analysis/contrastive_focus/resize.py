"""Resampling of pictures by separable filters, as Pillow does it, in float64."""

import numpy as np
from jaxtyping import Float

from attnjax.contract import check_known

KINDS = {"bilinear": 1.0, "lanczos": 3.0}  # the filters' supports


def resized(
  image: Float[np.ndarray, "h w *C"], out_hw: tuple[int, int], kind: str
) -> Float[np.ndarray, "H W *C"]:
  """Resamples a picture to another size: half-pixel centres, clamped at the edges.

  Where it is made smaller the filter is as wide as the step, so that all pixels count.

  Args:
    image: of any number of channels.
    out_hw: height and width of the result.
    kind: one of KINDS.
  """
  check_known("filter", kind, KINDS)
  rows, columns = (_matrix(o, n, kind) for o, n in zip(out_hw, image.shape))
  return np.einsum("yh,xw,hw...->yx...", rows, columns, image, optimize=True)


def _matrix(size: int, points: int, kind: str) -> np.ndarray:
  """Returns the (size, points) matrix of weights, whose rows sum to 1."""
  step = points / size
  wide = max(step, 1.0)
  centre = (np.arange(size)[:, None] + 0.5) * step
  x = (np.arange(points)[None] + 0.5 - centre) / wide
  if kind == "bilinear":
    weight = np.maximum(1 - abs(x), 0)
  else:
    weight = np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
  return weight / weight.sum(axis=1, keepdims=True)
