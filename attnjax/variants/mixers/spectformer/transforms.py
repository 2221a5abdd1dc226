"""The filter in the frequency domain, by an FFT or by products with DFT matrices.

Both compute in float32, or in float64 if x has it, and leave out the factors of the
"ortho" norm, S^-0.5 both ways: they are one factor 1 / S of the way back.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def by_fft(x: Float[Array, "B *S C"], response: Float[Array, "*F C 2"]) -> Array:
  """Computes the filtered grid by fast transforms."""
  axes = tuple(range(1, x.ndim - 1))
  spectrum = jnp.fft.rfftn(x, axes=axes)
  gain = jax.lax.complex(response[..., 0], response[..., 1])
  return jnp.fft.irfftn(spectrum * gain[None], s=x.shape[1:-1], axes=axes)


def by_dft(x: Float[Array, "B *S C"], response: Float[Array, "*F C 2"]) -> Array:
  """Computes the filtered grid by matrix products, O(H W (H + W)) for a channel.

  p and q are the real and the imaginary part, h and k rows and their frequencies, w and
  f columns and theirs.
  """
  grid = x.shape[1:-1]
  if len(grid) == 1:
    return by_dft(x[:, None], response[None])[:, 0]
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  rows, (columns, back) = _whole(grid[0]), _half(grid[1])
  rows, columns, back = (jnp.asarray(m, x.dtype) for m in (rows, columns, back))
  real, imaginary = response[None, ..., 0], response[None, ..., 1]

  spectrum = product("bhwc,wfp->bphfc", x, columns)
  spectrum = product("bphfc,phqk->bqkfc", spectrum, rows)
  a, b = spectrum[:, 0], spectrum[:, 1]
  gated = jnp.stack([a * real - b * imaginary, a * imaginary + b * real], axis=1)
  # The transposed matrix is the one of the conjugate, since both are (cos, sin) pairs.
  rising = product("bqkfc,phqk->bphfc", gated, rows)
  return product("bphfc,wfp->bhwc", rising, back) / math.prod(grid)


@functools.cache
def _whole(side: int) -> np.ndarray:
  """Returns the DFT of complex columns as a real matrix (2, H, 2, H), parts first."""
  angle = _angles(side, side)
  cos, sin = np.cos(angle), np.sin(angle)
  return np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)])


@functools.cache
def _half(side: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the DFT of real rows (W, F, 2), and the real part of its inverse times W.

  Frequencies are counted twice on the way back where the half that is not held has
  their mirror images.
  """
  count = side // 2 + 1
  angle = _angles(side, count)
  there = np.stack([np.cos(angle), -np.sin(angle)], axis=-1)
  place = np.arange(count)
  own = (place == 0) | (2 * place == side)
  return there, there * np.where(own, 1, 2)[:, None]


def _angles(side: int, count: int) -> np.ndarray:
  """Returns the angles (side, count) of the roots of unity, within one turn."""
  turns = np.arange(side)[:, None] * np.arange(count) % side
  return 2 * np.pi * turns / side
