"""Toeplitz matrices times vectors, by the fast Fourier transform.

  y[i] = sum_j c[j - i] x[j]        i, j in 0 .. T - 1, a lag j - i in 1 - T .. T - 1

also on grids, where i, j and the lag have several axes (block Toeplitz with Toeplitz
blocks). c is an array of 2 T - 1 entries an axis, the lag 0 in its middle: c[j - i] is
c[..., j - i + T - 1].

The matrix is a corner of a circulant one of F >= 2 T - 1 rows, which the transform
makes diagonal: O(F log F) time an axis and O(F) memory, forward and backward, against
T^2. Round-off is absolute: about 1e-7 of the largest |c| |x| summed, whatever the
size of one y[i]. Transforms are float32 (float64 for float64) whatever x is.

Gene H. Golub, Charles F. Van Loan. Matrix Computations, 4th edition, section 4.8.2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype


def multiply(
  c: Float[Array, "..."], x: Float[Array, "..."], axes: int = 1
) -> Float[Array, "..."]:
  """Computes the product y above by the transform, in the broadcast shape of c and x.

  Args:
    c: (..., 2 T - 1), one entry a lag; (..., 2 T1 - 1, 2 T2 - 1) for two axes.
    x: (..., T), or (..., T1, T2) for two axes.
    axes: how many of the last axes of x the matrix works on.

  Raises:
    ValueError: if c has not 2 T - 1 entries an axis.
  """
  grid = _grid(c, x, axes)
  lengths = tuple(fast_length(2 * T - 1) for T in grid)
  where, dtype = (
    tuple(range(-axes, 0)),
    jnp.promote_types(accumulator_dtype(c), accumulator_dtype(x)),
  )
  # Lag 0 first, then the past, and the future from the end: the circulant's column.
  column = jnp.flip(c.astype(dtype), where)
  widths = [(0, 0)] * (c.ndim - axes)
  widths += [(0, F - 2 * T + 1) for F, T in zip(lengths, grid)]
  column = jnp.roll(jnp.pad(column, widths), [1 - T for T in grid], where)
  # One FFT of both: XLA:CPU runs two FFTs at a time, each of which waits for threads of
  # one pool; with only two threads they deadlock.
  ends = [(0, 0)] * (x.ndim - axes) + [(0, F - T) for F, T in zip(lengths, grid)]
  parts = column, jnp.pad(x.astype(dtype), ends)
  rows = [part.reshape(-1, *lengths) for part in parts]
  both = jnp.fft.rfftn(jnp.concatenate(rows), axes=where)
  spectra = jnp.split(both, [rows[0].shape[0]])
  column, row = (
    part.reshape(*whole.shape[: whole.ndim - axes], *part.shape[1:])
    for part, whole in zip(spectra, parts)
  )
  product = column * row
  y = jnp.fft.irfftn(product, lengths, where)
  # A data dependence on y: without it XLA:CPU may run this FFT's transpose beside the
  # rematerialised forward FFT, and two concurrent FFTs deadlock a two-thread pool.
  y = y * (1 + 0 * jax.lax.stop_gradient(y.ravel()[0]))
  return y[(..., *(slice(T) for T in grid))].astype(x.dtype)


def direct(
  c: Float[Array, "..."], x: Float[Array, "..."], axes: int = 1
) -> Float[Array, "..."]:
  """Computes `multiply` by its definition, with the whole matrix.

  Arguments and errors are those of `multiply`.
  """
  grid = _grid(c, x, axes)
  dtype = jnp.promote_types(accumulator_dtype(c), accumulator_dtype(x))
  flat = x.reshape(*x.shape[: x.ndim - axes], -1).astype(dtype)
  y = jnp.einsum("...ts,...s->...t", matrix(c.astype(dtype), grid), flat)
  return y.reshape(*y.shape[:-1], *grid).astype(x.dtype)


def matrix(c: Float[Array, "..."], grid: tuple[int, ...]) -> Float[Array, "... T T"]:
  """Returns the matrix, T being the product of the grid, in row-major order."""
  places = np.indices(grid).reshape(len(grid), -1)
  lags = places[:, None, :] - places[:, :, None]
  return c[(..., *(lag + T - 1 for lag, T in zip(lags, grid)))]


def rows(c: Float[Array, "*N L"], number: int) -> Float[Array, "*N R S"]:
  """Returns `number` consecutive rows of a one-axis Toeplitz matrix, without gathering.

  Args:
    c: (..., R + S - 1), the entries of lags that rise by 1: row r, column s of the
      result is c[..., s - r + R - 1].
    number: R.
  """
  L = c.shape[-1]
  # A row one longer than the period of its copies begins one later each time.
  padded = jnp.pad(c, [(0, 0)] * (c.ndim - 1) + [(0, 1)])
  copies = jnp.broadcast_to(padded[..., None, :], (*c.shape[:-1], number, L + 1))
  skewed = copies.reshape(*c.shape[:-1], -1)[..., : number * L]
  return skewed.reshape(*c.shape[:-1], number, L)[..., number - 1 :]


def fast_length(length: int) -> int:
  """Returns the least number of the form 2^a 3^b 5^c that is not below `length`."""
  best = 1 << max(length - 1, 0).bit_length()
  five = 1
  while five < best:
    three = five
    while three < best:
      power = -(-length // three)
      best = min(best, three << max(power - 1, 0).bit_length())
      three *= 3
    five *= 5
  return best


def _grid(c, x, axes) -> tuple[int, ...]:
  grid = x.shape[x.ndim - axes :]
  if c.shape[c.ndim - axes :] != tuple(2 * T - 1 for T in grid):
    raise ValueError(
      f"c {c.shape} must have 2 T - 1 entries for each of the last {axes} axes of"
      f" x {x.shape}"
    )
  return grid
