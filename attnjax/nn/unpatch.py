"""Patches of pixels from the points of a grid."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float


class Unpatch(nnx.Module):
  """Non-overlapping patches of pixels, each a linear function of one point.

  (B, h, w, D) -> (B, size h, size w, E): the transpose of `attnjax.nn.patches`, or a
  transposed convolution whose kernel is as large as its stride.

  Args:
    dim: D.
    out: E.
    size: side of the patches.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, out: int, size: int, *, rngs: nnx.Rngs):
    self.project: Any = nnx.Linear(dim, size * size * out, rngs=rngs)
    self.out, self.size = out, size

  def __call__(
    self, x: Float[Array, "B h w D"], sides: Sequence[int]
  ) -> Float[Array, "B H W E"]:
    """Returns the pixels, cropped at the right and bottom to `sides` (H, W)."""
    (B, h, w, _), s = x.shape, self.size
    y = self.project(x).reshape(B, h, w, s, s, self.out).swapaxes(2, 3)
    return y.reshape(B, h * s, w * s, self.out)[:, : sides[0], : sides[1]]
