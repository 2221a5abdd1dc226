"""Patches of several sizes around the same centres."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn.transformer import layer_norm


class CrossScale(nnx.Module):
  """The cross-scale embedding layer: convolutions of one stride, concatenated.

  Of m sizes the i-th gets D / 2^i channels, the last one as many as the one before it:
  large kernels are dear. (B, H, W, C) -> (B, ceil(H / s), ceil(W / s), D), s the
  smallest size; an image whose sides do not divide by it is padded with zeros at its
  right and bottom.

  Args:
    channels: C.
    dim: D, which 2^(m - 1) divides.
    sizes: ascending, all even or all odd.
    first: whether the norm is of the input, as between stages, or of the result.
    rngs: for the parameters.
  """

  def __init__(
    self,
    channels: int,
    dim: int,
    sizes: Sequence[int],
    *,
    first: bool = False,
    rngs: nnx.Rngs,
  ):
    sizes, stride = tuple(sizes), sizes[0]
    if any(a >= b for a, b in zip(sizes, sizes[1:])) or stride < 1:
      raise ValueError(f"sizes = {sizes}: they must be positive and ascending")
    if any((size - stride) % 2 for size in sizes):
      raise ValueError(f"sizes = {sizes}: patches have one centre, all even or all odd")
    if dim % 2 ** (len(sizes) - 1):
      raise ValueError(f"dim = {dim} does not divide by 2^{len(sizes) - 1}")
    last = len(sizes) - 1
    self.convolutions = nnx.List([])
    for number, size in enumerate(sizes):
      around = ((size - stride) // 2,) * 2
      self.convolutions.append(
        nnx.Conv(
          channels,
          dim // 2 ** min(number + 1, last),
          (size, size),
          strides=stride,
          padding=(around, around),
          rngs=rngs,
        )
      )
    self.norm = layer_norm(channels if first else dim, rngs=rngs)
    self.stride, self.first = stride, first

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Returns the grid of embedded patches."""
    x = self.norm(x) if self.first else x
    missing = ((0, -side % self.stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *missing, (0, 0)))
    y = jnp.concatenate([part(x) for part in self.convolutions], axis=-1)
    return y if self.first else self.norm(y)
