"""Convolutions with zeros around the map, drawn as torch draws them.

On CPUs the derivatives of XLA's convolutions take about 15 times as long inside of
loops (scans over blocks or over steps) as outside. There they are products of matrices
here, of all windows, one window a row.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core import platform

SLOPE = 0.2  # of negative values in the leaky ReLU


def convolve(
  x: Float[Array, "B H W C"],
  kernel: Float[Array, "k l C D"],
  stride: int = 1,
  padding: Sequence[int] | None = None,
) -> Float[Array, "B h w D"]:
  """Returns the convolution of a map, with derivatives of any order.

  Args:
    x: the map.
    kernel: its entry [k // 2, l // 2] is the pixel's own.
    stride: pixels between windows.
    padding: zeros above and below the map, and left and right of it; None for
      (k // 2, l // 2), which keeps its sides if k and l are odd.
  """
  dtype = jnp.promote_types(x.dtype, kernel.dtype)
  around = tuple(side // 2 for side in kernel.shape[:2]) if padding is None else padding
  run = _on_cpu if platform.target_platform() == "cpu" else _convolve
  return run(x.astype(dtype), kernel.astype(dtype), stride, tuple(around))


def _convolve(x, kernel, stride, padding):
  around = [(pad, pad) for pad in padding]
  layout = ("NHWC", "HWIO", "NHWC")
  strides = (stride, stride)
  return jax.lax.conv_general_dilated(
    x, kernel, strides, around, dimension_numbers=layout
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _on_cpu(x, kernel, stride, padding):
  return _convolve(x, kernel, stride, padding)


@_on_cpu.defjvp
def _on_cpu_jvp(stride, padding, primals, tangents):
  (x, kernel), (dx, dkernel) = primals, tangents
  change = _by_windows(dx, kernel, stride, padding)
  change += _by_windows(x, dkernel, stride, padding)
  return _on_cpu(x, kernel, stride, padding), change


def _by_windows(x, kernel, stride, padding):
  """Computes the convolution as a product of the matrix of windows and the kernel's."""
  around = [(pad, pad) for pad in padding]
  windows = jnp.pad(x, ((0, 0), *around, (0, 0)))
  for axis, side in ((1, kernel.shape[0]), (2, kernel.shape[1])):
    last = (windows.shape[axis] - side) // stride * stride
    shifted = [
      jax.lax.slice_in_dim(windows, i, i + last + 1, stride, axis) for i in range(side)
    ]
    windows = jnp.concatenate(shifted, axis=3)
  # The channels are last in a window, its rows before them, its columns first.
  flat = kernel.swapaxes(0, 1).reshape(-1, kernel.shape[3])
  return jnp.einsum("bhwc,cd->bhwd", windows, flat)


def leaky(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
  """Returns the leaky ReLU, whose slope at 0 is that of negative values."""
  return jnp.where(x > 0, x, SLOPE * x)


def along(shift: Float[Array, "C"], axes: int) -> Float[Array, "..."]:
  """Returns a vector of channels as an array of that many axes, the last one C."""
  return shift.reshape(*(1,) * (axes - 1), -1)


def uniform(
  rngs: nnx.Rngs, bound: float, shape: tuple[int, ...], size: int
) -> tuple[Float[Array, "..."], Float[Array, "size"]]:
  """Draws a kernel and a vector from -bound to bound.

  They are one array before they are two: half as many draws compile in half the time.
  """
  count = math.prod(shape)
  drawn = jax.random.uniform(rngs.params(), (count + size,), jnp.float32, -bound, bound)
  return drawn[:count].reshape(shape), drawn[count:]


class Convolution(nnx.Module):
  """`convolve` with its weights; x (B, H, W, inputs).

  Args:
    inputs: channels of the map.
    outputs: channels of the result.
    size: sides of the kernel, or one number for both. Odd ones keep the sides of the
      map; with stride 2 and size 4 they are halved, if they are even.
    stride: pixels between windows.
    bias: whether there is one.
    rngs: for the parameters, uniform within 1 / sqrt(the inputs of an output).
  """

  def __init__(
    self,
    inputs: int,
    outputs: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    bias: bool = True,
    rngs: nnx.Rngs,
  ):
    sides = (size, size) if isinstance(size, int) else size
    bound = (inputs * sides[0] * sides[1]) ** -0.5
    kernel, shift = uniform(
      rngs, bound, (*sides, inputs, outputs), outputs if bias else 0
    )
    self.kernel = nnx.Param(kernel)
    self.bias: Any = nnx.Param(shift) if bias else None
    self.stride, self.padding = stride, tuple((side - 1) // 2 for side in sides)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Returns the convolved map."""
    y = convolve(x, self.kernel[...], self.stride, self.padding)
    return y if self.bias is None else y + along(self.bias[...], 4)
