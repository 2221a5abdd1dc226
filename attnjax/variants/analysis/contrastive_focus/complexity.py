"""Diagnostics: the entropy of attention, and how complex a picture is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_HUES = 180


def attention_entropy(
  maps: Any, layers: Sequence[int] | None = None
) -> Float[np.ndarray, "*B"]:
  """Computes the mean over layers of the entropy of attention on a picture, in nats.

  Args:
    maps: (*B, L, P), attention to the picture's tokens, renormalised over these.
    layers: all if None.
  """
  a = np.asarray(maps, np.float64)
  a = a if layers is None else a[..., list(layers), :]
  total = a.sum(axis=-1, keepdims=True)
  a = a / np.where(total > 0, total, 1)
  each = -(a * np.log(np.where(a > 0, a, 1))).sum(axis=-1)
  return np.asarray(each.mean(axis=-1))


def texture_complexity(image: Float[np.ndarray, "H W C"], edge: float = 0.5) -> float:
  """Computes the share of pixels on edges: of a Sobel gradient above `edge`.

  The paper takes Canny's edges, which are thinned.

  Args:
    image: in [0, 1].
    edge: the least gradient of the mean over channels; a step from 0 to 1 has 4.
  """
  x = np.pad(image.mean(axis=-1), 1, mode="edge")
  smooth = x[:-2] + 2 * x[1:-1] + x[2:], x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
  across = smooth[0][:, 2:] - smooth[0][:, :-2]
  down = smooth[1][2:] - smooth[1][:-2]
  return float((np.hypot(across, down) > edge).mean())


def colour_complexity(image: Float[np.ndarray, "H W 3"]) -> float:
  """Computes the entropy of the hues in 180 bins, as a share of the largest one.

  Pixels without a hue, all greys, are in the first bin, as in OpenCV.

  Args:
    image: red, green and blue in [0, 1].
  """
  top, low = image.max(axis=-1), image.min(axis=-1)
  span = top - low
  r, g, b = np.moveaxis(image, -1, 0)
  safe = np.where(span > 0, span, 1)
  sectors = (g - b) / safe, 2 + (b - r) / safe, 4 + (r - g) / safe
  hue = np.select([top == r, top == g], sectors[:2], sectors[2]) % 6 / 6
  hue = np.where(span > 0, hue, 0)
  count = np.bincount((hue * _HUES).astype(int).ravel() % _HUES, minlength=_HUES)
  share = count[count > 0] / count.sum()
  return float(-(share * np.log(share)).sum() / np.log(_HUES))
