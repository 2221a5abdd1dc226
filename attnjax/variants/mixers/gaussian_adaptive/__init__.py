"""GAAM: features weighed by a product of learned Gaussians of what they are.

Georgios Ioannides, Aman Chadha, Aaron Elkins. Gaussian Adaptive Attention Is All You
Need: Robust Contextual Representations Across Multiple Modalities. 2024.
arXiv:2401.11143. Official code: github.com/gioannides/Gaussian-Adaptive-Attention
(commit 145d1bc).

An axis of x is cut into M chunks, one a head; with the mean m and the variance s^2 of a
chunk z (unbiased, plus 1e-8), K displacements d and K spreads c of its head,

  w~   = prod_k exp(-(z - m - d_k)^2 / (2 c_k^2 s^2)) / sqrt(2 pi c_k^2)
  w    = w~ / sum of w~                  by the authors over max(sum, 1e-8): `clamp`
  out  = z w                             block: x + out

There are neither queries nor keys. A product of Gaussians is one, of precision p = sum
c_k^-2 around d = sum d_k c_k^-2 / p, so that K > 1 adds nothing that a head could not
have with K = 1, and w = softmax(-p (z - m - d)^2 / (2 s^2)): so it is computed, since
products underflow. A chunk of one entry, which is NaN in the authors' code, has the
variance 0.

Along features a token is weighed alone: tokens are not mixed, and decoding keeps
nothing. Along tokens, each document by itself, all see all. The layer also has softmax
attention whose input, keys or values are x + out.

Cost: O(T D) time and memory; O(T^2 D) time along tokens with padding or documents.

Axes: B batch, T tokens, S entries of the axis, M heads, K Gaussians, N heads and H head
size of the softmax attention, D model width.

Not here: the frozen encoders, whose layers' outputs the authors weigh and classify; a
causal form along tokens, whose means and sums would move with each token; a fused
kernel of the two passes over a chunk.
"""

from attnjax.variants.mixers.gaussian_adaptive.attention import (
  CASES,
  EPSILON,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.mixers.gaussian_adaptive.block import (
  GaussianBlock,
  Gaussians,
  importance,
)
from attnjax.variants.mixers.gaussian_adaptive.layer import (
  APPLIED,
  AXES,
  FORMS,
  Layer,
)

__all__ = [
  "APPLIED",
  "AXES",
  "CASES",
  "EPSILON",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "GaussianBlock",
  "Gaussians",
  "Layer",
  "attend",
  "importance",
  "reference",
  "scaled",
]
LAYER = {"dim": 14, "heads": 4, "gaussians": 2}
GROWTH = 2.0


def scaled(shape: tuple[int, ...]) -> dict[str, str]:
  """Returns options of a layer with matrix products, which Gaussians alone lack."""
  del shape
  return {"apply_to": "key"}
