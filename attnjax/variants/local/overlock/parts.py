"""Small parts of the blocks: projections with a norm, convolutions, gates, the MLP."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import running, transformer
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.norms import BatchNorm

INIT = nnx.initializers.truncated_normal(0.02)
NORMS = ("layer", "batch")
EPSILON = 1e-6  # of layer norms


def normed(norm: str, dim: int, *, rngs: nnx.Rngs):
  """Returns a norm over each pixel's channels, or over all pixels for each channel."""
  check_known("norm", norm, NORMS)
  if norm == "batch":
    return BatchNorm(dim)
  return transformer.layer_norm(dim, EPSILON, rngs=rngs)


def linear(below: int, dim: int, *, bias: bool = True, rngs: nnx.Rngs) -> nnx.Linear:
  """Returns a linear map of each pixel's channels."""
  return nnx.Linear(below, dim, use_bias=bias, kernel_init=INIT, rngs=rngs)


def depthwise(dim: int, size: int = 3, *, rngs: nnx.Rngs) -> Depthwise:
  """Returns a depthwise convolution whose kernel starts small."""
  made = Depthwise(dim, size, rngs=rngs)
  made.kernel = nnx.Param(INIT(rngs.params(), made.kernel.shape))
  return made


def gelu(x: Array) -> Array:
  """Computes GELU by the error function."""
  return jax.nn.gelu(x, approximate=False)


class Projection(nnx.Module):
  """A linear map without a bias, and a norm."""

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, *, norm: str = "batch", rngs: nnx.Rngs):
    self.linear = linear(below, dim, bias=False, rngs=rngs)
    self.norm = normed(norm, dim, rngs=rngs)

  def __call__(self, x: Array, *, stats: Any = None, train: bool = False) -> Any:
    """Returns the map of another width, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    return carry.result(carry(self.norm, self.linear(x)))


class Convolution(nnx.Module):
  """A convolution of 3 x 3 without a bias, padded with a pixel of zeros, and a norm."""

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, stride: int, *, rngs: nnx.Rngs):
    self.convolve = nnx.Conv(
      below,
      dim,
      (3, 3),
      strides=stride,
      padding=((1, 1), (1, 1)),
      use_bias=False,
      kernel_init=INIT,
      rngs=rngs,
    )
    self.norm = BatchNorm(dim)

  def __call__(self, x: Array, *, stats: Any = None, train: bool = False) -> Any:
    """Returns the convolved map, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    return carry.result(carry(self.norm, self.convolve(x)))


class Excitation(nnx.Module):
  """Squeeze and excitation: x sigmoid(up(gelu(down(mean of x over the map)))).

  Jie Hu, Li Shen, Gang Sun. Squeeze-and-Excitation Networks. arXiv:1709.01507. The
  squeeze has an eighth of the channels, at least 16.
  """

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    width = max(16, dim // 8)
    self.squeeze, self.excite = (
      linear(dim, width, rngs=rngs),
      linear(width, dim, rngs=rngs),
    )

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
    """Returns the map with its channels scaled."""
    gate = self.excite(gelu(self.squeeze(x.mean(axis=(1, 2), keepdims=True))))
    return x * jax.nn.sigmoid(gate)


class ResponseNorm(nnx.Module):
  """Global response normalisation: x (1 + scale n) + bias; it starts as the identity.

  Sanghyun Woo et al. ConvNeXt V2. arXiv:2301.00808. n is a channel's norm over the
  map, in the mean of all channels' norms.
  """

  def __init__(self, dim: int):
    self.scale, self.bias = nnx.Param(jnp.zeros(dim)), nnx.Param(jnp.zeros(dim))

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
    """Returns the normalised map, computed in float32."""
    wide = x.astype(accumulator_dtype(x))
    square = jnp.sum(wide**2, axis=(1, 2), keepdims=True)
    some = square > 0  # the root has no gradient at 0
    size = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)
    share = size / (size.mean(axis=-1, keepdims=True) + 1e-6)
    scale, bias = (p[...].reshape(1, 1, 1, -1) for p in (self.scale, self.bias))
    return (wide * (1 + scale * share) + bias).astype(x.dtype)


class Scale(nnx.Module):
  """A factor and a bias for each channel; the bias starts at 0."""

  def __init__(self, dim: int, value: float):
    self.scale, self.bias = nnx.Param(jnp.full(dim, value)), nnx.Param(jnp.zeros(dim))

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
    """Returns the scaled map."""
    scale, bias = (p[...].astype(x.dtype) for p in (self.scale, self.bias))
    return x * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


class Feed(nnx.Module):
  """down(respond(z + convolve(z))), z = gelu(up(x)); the residual is the caller's."""

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    self.up, self.down = linear(dim, hidden, rngs=rngs), linear(hidden, dim, rngs=rngs)
    self.convolve = depthwise(hidden, rngs=rngs)
    self.respond = ResponseNorm(hidden)

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
    """Returns the MLP's output."""
    z = gelu(self.up(x))
    return self.down(self.respond(z + self.convolve(z)))
