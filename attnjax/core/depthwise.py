"""Depthwise convolutions on sequences and grids, with zeros beyond the border.

  y[p] = sum_d kernel[d] x[p + d - k div 2]      d over the kernel's k places an axis

Each channel has a separate kernel, or channels share one by broadcasting.

Cost: a multiplication and an addition for each element and entry of the kernel. They
are written as shifts, since grouped convolutions are slow on the CPU, their gradients
most of all.

Axes: B batch, S one or two axes of the grid, C one or more axes of channels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import devices


def depthwise(
  x: Float[Array, "B ..."],
  kernel: Float[Array, "..."],
  segment_ids: Int[Array, "B T"] | None = None,
  *,
  axes: int = 2,
) -> Float[Array, "B ..."]:
  """Returns the depthwise convolution of x (B, *S, *C), in the shape of x.

  Args:
    x: the grid, `axes` axes after the first one.
    kernel: (*k, *C) with odd k, or 1 where channels share it.
    segment_ids: (B, T), for one axis: a token of another segment counts as zero; a
      token with a negative id counts as zero and gives zero.
    axes: of the grid, 1 or 2.

  Raises:
    ValueError: if a side of the kernel is even or its axes do not fit.
    NotImplementedError: for segments on more than one axis.
  """
  if kernel.ndim != x.ndim - 1:
    raise ValueError(f"kernel {kernel.shape} does not fit x {x.shape} of {axes} axes")
  sides, grid = kernel.shape[:axes], x.shape[1 : 1 + axes]
  if not all(side % 2 for side in sides):
    raise ValueError(f"kernel {kernel.shape}: its sides {sides} must be odd")
  if segment_ids is not None and axes > 1:
    raise NotImplementedError(f"segment_ids on a grid of {axes} axes")
  around = [(side // 2,) * 2 for side in sides]
  padded = jnp.pad(x, ((0, 0), *around, *((0, 0),) * (x.ndim - 1 - axes)))
  kernel = kernel.astype(x.dtype)
  if axes == 1:
    ids = None
    if segment_ids is not None:
      ids = jnp.pad(segment_ids, ((0, 0), *around), constant_values=-1)
    return _row(padded, kernel, x.shape[1], segment_ids, ids)

  def add(y, part):
    # A loop over rows: sums of many shifts take long to compile.
    place, row = part
    window = jax.lax.dynamic_slice_in_dim(padded, place, grid[0], axis=1)
    window = jnp.moveaxis(window, 2, 1)
    return y + jnp.moveaxis(_row(window, row, grid[1]), 1, 2), None

  places = jnp.arange(sides[0]), kernel
  start = devices.vary_like(jnp.zeros_like(x), x, kernel)
  return jax.lax.scan(jax.checkpoint(add), start, places)[0]


def _row(padded, kernel, length, segment_ids=None, ids=None):
  """Convolves along axis 1, of `length` tokens with a border on both sides."""
  y = jnp.zeros_like(padded[:, :length])
  for place in range(kernel.shape[0]):
    own = kernel[place]
    own = own.reshape(*(1,) * (padded.ndim - own.ndim), *own.shape)
    term = padded[:, place : place + length] * own
    if ids is not None:
      near = ids[:, place : place + length]
      same = (near == segment_ids) & (near >= 0)
      term = jnp.where(same.reshape(*same.shape, *(1,) * (term.ndim - 2)), term, 0)
    y += term
  return y
