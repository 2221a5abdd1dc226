"""The stem and the merges of the hierarchical network: convolutions and norms."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn import running
from attnjax.nn.norms import BatchNorm
from attnjax.nn.transformer import layer_norm
from attnjax.variants.mixers.spectformer.blocks import EPSILON

_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Stem(nnx.Module):
  """Three convolutions with batch norm and ReLU, of 7 x 7 and 3 x 3, then `Down`.

  Args:
    channels: C.
    width: of the three.
    dim: D.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, channels: int, width: int, dim: int, *, rngs: nnx.Rngs):
    self.convolutions = nnx.List(
      _convolution(below, width, side, stride, bias=False, rngs=rngs)
      for below, side, stride in ((channels, 7, 2), (width, 3, 1), (width, 3, 1))
    )
    self.norms = nnx.List(BatchNorm(width) for _ in range(3))
    self.down = Down(width, dim, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the map, of a quarter of the sides, and new statistics if given some."""
    carry = running.Carry(self, stats, train)
    for convolution, norm in zip(self.convolutions, self.norms):
      x = jax.nn.relu(carry(norm, convolution(x)))
    return carry.result(self.down(x))


class Down(nnx.Module):
  """A convolution of 3 x 3 of stride 2, and a norm."""

  def __init__(self, below: int, dim: int, *, rngs: nnx.Rngs):
    self.convolution = _convolution(below, dim, 3, 2, bias=True, rngs=rngs)
    self.norm = layer_norm(dim, rngs=rngs)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Returns the map of half the sides, rounded up."""
    return self.norm(self.convolution(x))


class Norm(nnx.Module):
  """The norm at the end of a stage, called as a block is."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm = layer_norm(dim, EPSILON, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B h w D"], *, index: int = 0, key: Array | None = None
  ) -> Float[Array, "B h w D"]:
    """Returns the normalised map."""
    del index, key
    return self.norm(x)


def _convolution(below, dim, side, stride, *, bias, rngs) -> nnx.Conv:
  around = ((side // 2,) * 2,) * 2
  how: dict[str, Any] = {"strides": stride, "padding": around, "use_bias": bias}
  return nnx.Conv(below, dim, (side, side), kernel_init=_INIT, **how, rngs=rngs)
