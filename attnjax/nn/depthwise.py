"""Depthwise convolutions with parameters."""

import math

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.core.depthwise import depthwise


class Depthwise(nnx.Module):
  """A kernel and a bias for each channel; x (B, T, D) or (B, H, W, D).

  Args:
    dim: D.
    size: side of the kernel, odd.
    axes: 1 for sequences, 2 for images.
    rngs: for the kernel, which starts normal with the variance kept; the bias is 0.
  """

  def __init__(self, dim: int, size: int, *, axes: int = 2, rngs: nnx.Rngs):
    if size < 1 or not size % 2:
      raise ValueError(f"size = {size} of a kernel; it must be odd and positive")
    shape = (*(size,) * axes, dim)
    noise = jax.random.normal(rngs.params(), shape)
    self.kernel = nnx.Param(noise / math.sqrt(size**axes))
    self.bias = nnx.Param(jax.numpy.zeros(dim))
    self.axes = axes

  def __call__(
    self, x: Float[Array, "B *S D"], segment_ids: Int[Array, "B T"] | None = None
  ) -> Float[Array, "B *S D"]:
    """Returns the convolved grid; in a sequence, segments do not see each other."""
    y = depthwise(x, self.kernel[...], segment_ids, axes=self.axes)
    bias = self.bias[...].astype(x.dtype)
    return y + bias.reshape(*(1,) * (y.ndim - 1), -1)
