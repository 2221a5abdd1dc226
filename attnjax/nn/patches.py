"""Images to grids of patches."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.positions import sinusoids


class Patches(nnx.Module):
  """Non-overlapping patches, linearly embedded.

  (B, H, W, C) -> (B, ceil(H / size), ceil(W / size), dim): an image whose sides do not
  divide by `size` is padded with zeros at its right and bottom.

  Args:
    channels: C.
    dim: D.
    size: side of the patches.
    positions: whether fixed 2-D sinusoids are added, so that images of any size fit.
    rngs: for the parameters.
  """

  def __init__(
    self,
    channels: int,
    dim: int,
    size: int,
    *,
    positions: bool = False,
    rngs: nnx.Rngs,
  ):
    # The default initializer keeps the variance: the positions are of order 1, and
    # must not drown the pixels.
    self.project: Any = nnx.Linear(size * size * channels, dim, rngs=rngs)
    self.size, self.positions = size, positions

  def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Returns the grid of embedded patches."""
    B, H, W, C = images.shape
    s = self.size
    images = jnp.pad(images, ((0, 0), (0, -H % s), (0, -W % s), (0, 0)))
    h, w = images.shape[1] // s, images.shape[2] // s
    patches = images.reshape(B, h, s, w, s, C).swapaxes(2, 3)
    x = self.project(patches.reshape(B, h, w, s * s * C))
    return x + sinusoids((h, w), x.shape[3]).astype(x.dtype) if self.positions else x
