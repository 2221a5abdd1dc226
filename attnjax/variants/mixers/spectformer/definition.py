"""The definition: a circular convolution whose kernel is a naive inverse DFT."""

import math

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference(x, response, *, method="auto"):
  """Computes the sum over all points, weighted by the kernel at their difference.

  out[p] = sum_q kernel[(p - q) mod S] x[q]; it is the same for every `method`.
  """
  del method
  grid, channels = x.shape[1:-1], x.shape[-1]
  points = _points(grid)
  apart = tuple((points[:, None] - points).T % jnp.array(grid)[:, None, None])
  circles = _kernel(grid, response)[apart]
  rows = definition.wide(x).reshape(-1, len(points), channels)
  with jax.default_matmul_precision("highest"):
    out = jnp.einsum("qpc,bqc->bpc", circles, rows)
  return out.astype(x.dtype).reshape(x.shape)


def _kernel(grid, response):
  """Returns the kernel (*S, C): the real part of the inverse DFT of the spectrum.

  The response is half of it. The other half mirrors it, so that a column counts twice;
  not so the first, and the middle of an even side, which are their own mirror images.
  """
  if jnp.iscomplexobj(response):
    real, imaginary = response.real, response.imag
  else:
    real, imaginary = response[..., 0], response[..., 1]
  half, channels = real.shape[:-1], real.shape[-1]
  frequencies = _points(half)
  own = (frequencies[:, -1] == 0) | (2 * frequencies[:, -1] == grid[-1])
  real, imaginary = (
    jnp.where(own, 1, 2)[:, None] * definition.wide(y).reshape(-1, channels)
    for y in (real, imaginary)
  )
  turns = (_points(grid)[:, None] * frequencies % jnp.array(grid)) / jnp.array(grid)
  angle = 2 * jnp.pi * turns.sum(-1)
  with jax.default_matmul_precision("highest"):
    kernel = jnp.cos(angle) @ real - jnp.sin(angle) @ imaginary
  return kernel.reshape(*grid, channels) / math.prod(grid)


def _points(grid):
  """Returns the coordinates (P, axes) of all points, row by row."""
  axes = jnp.meshgrid(*map(jnp.arange, grid), indexing="ij")
  return jnp.stack(axes, axis=-1).reshape(-1, len(grid))
