"""Convolutions with zeros around the map, drawn as torch draws them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn.linear import INIT

SLOPE = 0.2  # of negative values in the leaky ReLU
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def convolve(
  x: Float[Array, "B *S C"], kernel: Float[Array, "..."]
) -> Float[Array, "B *S D"]:
  """Returns the convolution of x by a kernel (*k, C, D) with odd sides k."""
  axes = x.ndim - 2
  ones = (1,) * axes
  return jax.lax.conv_general_dilated(
    x, kernel, ones, "SAME", dimension_numbers=_LAYOUTS[axes]
  )


def leaky(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
  """Returns the leaky ReLU, whose slope at 0 is that of negative values."""
  return jnp.where(x > 0, x, SLOPE * x)


def along(shift: Float[Array, "C"], axes: int) -> Float[Array, "..."]:
  """Returns a vector of channels as an array of that many axes, the last one C."""
  return shift.reshape(*(1,) * (axes - 1), -1)


def convolution(
  inputs: int,
  outputs: int,
  size: int | tuple[int, ...],
  *,
  stride: int = 1,
  bias: bool = True,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  """Returns a convolution; odd sizes with stride 1 keep the sides of the map.

  Args:
    inputs: channels of the map.
    outputs: channels of the result.
    size: sides of the kernel, or one number for both; with a stride of 2 the side is 4,
      and an even side of the map is halved.
    stride: 1 or 2.
    bias: whether there is one.
    rngs: for the parameters, uniform within 1 / sqrt(the inputs of an output).
  """
  sides = (size, size) if isinstance(size, int) else size
  bound = inputs
  for side in sides:
    bound *= side

  def uniform(key: Any, shape: Any, dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -(bound**-0.5), bound**-0.5)

  return nnx.Conv(
    inputs,
    outputs,
    sides,
    strides=stride,
    padding=[((side - 1) // 2,) * 2 for side in sides],
    use_bias=bias,
    kernel_init=INIT,
    bias_init=uniform,
    rngs=rngs,
  )
