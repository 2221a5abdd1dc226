"""Embeddings of the networks: patches with a norm, positions, merged neighbours."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core import resample
from attnjax.nn.patches import Patches
from attnjax.nn.transformer import layer_norm

_INIT = nnx.initializers.truncated_normal(0.02)


class Embedding(nnx.Module):
  """Patches, linearly embedded, and a norm; (B, H, W, C) to (B, h, w, D)."""

  def __init__(
    self, channels: int, dim: int, size: int, *, epsilon: float, rngs: nnx.Rngs
  ):
    self.patches = Patches(channels, dim, size, rngs=rngs)
    self.norm = layer_norm(dim, epsilon, rngs=rngs)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Returns the map."""
    return self.norm(self.patches(x))


class Positions(nnx.Module):
  """A learned vector for each place of a square map, interpolated on other maps."""

  def __init__(self, dim: int, side: int, *, rngs: nnx.Rngs):
    self.table = nnx.Param(_INIT(rngs.params(), (side, side, dim)))

  def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
    """Returns x with the vectors added."""
    sides = zip(x.shape[1:3], self.table.shape)
    rows, columns = (resample.linear(size, points)[0] for size, points in sides)
    places = jnp.einsum("yp,xr,prd->yxd", rows, columns, self.table[...])
    return x + places.astype(x.dtype)


class Placed(nnx.Module):
  """Embedded patches and the vectors of their places, as before a stage of PVT."""

  def __init__(self, channels: int, dim: int, size: int, *, side: int, rngs: nnx.Rngs):
    # The official code leaves this norm's epsilon at its default.
    self.embedding = Embedding(channels, dim, size, epsilon=1e-5, rngs=rngs)
    self.positions = Positions(dim, side, rngs=rngs)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Returns the map."""
    return self.positions(self.embedding(x))


class Merging(nnx.Module):
  """The channels of 2 x 2 neighbours, a norm, and a map to the next width.

  Ze Liu et al. Swin Transformer. 2021. arXiv:2103.14030, section 3.1. Maps of odd sides
  are padded with zeros at their end.
  """

  def __init__(self, dim: int, width: int, *, epsilon: float, rngs: nnx.Rngs):
    self.norm = layer_norm(4 * dim, epsilon, rngs=rngs)
    self.project = nnx.Linear(
      4 * dim, width, use_bias=False, kernel_init=_INIT, rngs=rngs
    )

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w E"]:
    """Returns the map; a column's two tokens are next to each other in the norm."""
    x = jnp.pad(x, ((0, 0), *((0, side % 2) for side in x.shape[1:3]), (0, 0)))
    B, H, W, D = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, D).transpose(0, 1, 3, 4, 2, 5)
    return self.project(self.norm(x.reshape(B, H // 2, W // 2, 4 * D)))
