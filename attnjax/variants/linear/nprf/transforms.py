"""The sums over keys by Fourier transforms, accurate also for small rows.

The round-off of a transform is relative to its largest elements. Causal rows take the
earlier keys in blocks of 128, 256, 512, ... tokens, each by its own transform, and the
keys of their own block directly: no later key is in any of them. A bound on each row's
round-off is computed beside its sums; if it is too large for any row, all sums are
recomputed directly.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import devices, toeplitz
from attnjax.variants.linear.nprf import algorithms, kernel
from attnjax.variants.linear.nprf.algorithms import TILE, Factors, Rows, finite

# Elements that one slice of features may take in each of a few arrays.
SLICE = 1 << 20
# The greatest allowed round-off of a row, relative to its sum.
_ERROR = 1e-3


def transform(x: Factors, c, grid, causal, positive) -> Float[Array, "B N T E1"]:
  """Computes the sums by Fourier transforms.

  Args:
    x: factors of queries and keys on one grid.
    c: (N, 2 D - 1, ...), logs, from `kernel.table`.
    grid: (T,), or the axes whose product is T.
    causal: whether a token sees only earlier tokens and itself.
    positive: whether the features are positive, given as logs.
  """
  if causal and grid[0] <= TILE:
    return algorithms.tiled(x, c, grid, causal, None, None, positive)
  if causal:
    rows = _causal(x, c, grid, positive)
  else:
    rows = _blocks(x, kernel.spread(c, grid, False), grid, positive)
  sums, noise = rows.sums[..., :-1], rows.sums[..., -1]
  trusted = (noise <= _ERROR * jnp.abs(sums[..., -1])).all()
  given = grid, causal, None, None, positive
  return jax.lax.cond(
    trusted, lambda x, c: sums, lambda x, c: algorithms.tiled(x, c, *given), x, c
  )


def _causal(x: Factors, c, grid, positive) -> Rows:
  """Computes the sums of causal rows over blocks of keys of doubling sizes.

  The keys of a row's own block are summed directly.
  """
  T = grid[0]
  number = 1 << (-(-T // TILE) - 1).bit_length()
  length = number * TILE

  def cut(count, fill):
    def split(y, fill):
      widths = [(0, 0)] * y.ndim
      widths[2] = (0, length - T)
      y = jnp.pad(y, widths, constant_values=fill)
      return y.reshape(*y.shape[:2], count, length // count, *y.shape[3:])

    return Factors(*(split(y, f) for y, f in zip(x, fill)))

  none = -jnp.inf if positive else 0.0
  fill = none, none, -jnp.inf, 0.0
  lags = kernel.spread(c, (length,), True)
  own = toeplitz.rows(lags[:, length - TILE : length + TILE - 1], TILE)
  rows = algorithms.direct(cut(number, fill), own[:, None], positive)
  rows = Rows(rows.top, jnp.pad(rows.sums, [(0, 0)] * (rows.sums.ndim - 1) + [(0, 1)]))
  size = TILE
  while size < length:
    parts = cut(length // size, fill)
    past = Factors(parts.q[:, :, 1::2], *(y[:, :, ::2] for y in parts[1:]))
    # The lags from a row of a block to a key of the block before it.
    far = lags[:, length - 2 * size : length - 1]
    earlier = _blocks(past, far[:, None], (size,), positive)
    rows = _added(rows, earlier, size)
    size *= 2
  flat = (y.reshape(*y.shape[:2], length, *y.shape[4:])[:, :, :T] for y in rows)
  return Rows(*flat)


def _added(rows: Rows, earlier: Rows, size: int) -> Rows:
  """Adds sums over earlier keys to every second block of `size` of the rows."""

  def halves(y):  # (B, N, pairs, 2, size, ...)
    return y.reshape(*y.shape[:2], -1, 2, size, *y.shape[4:])

  first, second = (Rows(*(halves(y)[:, :, :, i] for y in rows)) for i in (0, 1))
  second = algorithms.joined(second, earlier)
  both = (jnp.stack(pair, axis=3) for pair in zip(first, second))
  return Rows(*(y.reshape(z.shape) for y, z in zip(both, rows)))


def _blocks(x: Factors, c, grid, positive) -> Rows:
  """Computes the sums over T keys of T rows, with the round-off as a last column.

  Args:
    x: factors with any axes before the axis of tokens.
    c: (N, ..., 2 T - 1, ...), logs, one entry a lag.
    grid: (T,), or the axes whose product is T.
    positive: as in `transform`.
  """
  q, k, top = _scaled(x, positive)
  axes = tuple(range(-len(grid), 0))
  greatest = finite(c.max(axis=axes, keepdims=True))
  c = jnp.exp(c - greatest)
  lead = c.shape[: -len(grid)]
  rows = (*(1,) * (top.ndim - 1 - len(lead)), *lead, 1)
  top = top + greatest.reshape(rows)
  loss = jnp.finfo(q.dtype).eps * jnp.sqrt(jnp.square(c).sum(axis=axes)).reshape(rows)
  noise = jnp.einsum("...tf,...f->...t", jnp.abs(q), jnp.sqrt(jnp.square(k).sum(-2)))
  noise = jax.lax.stop_gradient(loss * noise)[..., None]
  return Rows(top, jnp.concatenate([_sums(q, k, x.columns, c, grid), noise], axis=-1))


def _scaled(x: Factors, positive):
  """Returns (q, k, top) with features of at most 1 in every row and column."""
  if not positive:
    top = finite(x.amplitude.max(-1, keepdims=True))
    k = x.k * jnp.exp(x.amplitude - top)[..., None]
    return x.q, k, jnp.broadcast_to(top, x.q.shape[:-1])
  peaks = finite(x.k.max(-2, keepdims=True))
  logs = x.q + peaks
  top = finite(logs.max(-1))
  return jnp.exp(logs - top[..., None]), jnp.exp(x.k - peaks), top


def _sums(q, k, columns, c, grid) -> Array:
  """Multiplies features and columns by the matrix of c, in slices of features."""
  *lead, T, F = k.shape
  columns = columns.swapaxes(-1, -2)[..., None, :, :]  # (..., 1, E + 1, T)
  width = math.prod(toeplitz.fast_length(2 * side - 1) for side in grid)
  size = min(F, max(1, SLICE // (math.prod(lead) * columns.shape[-2] * width)))
  number = -(-F // size)

  def split(x):  # (..., T, F) -> (number, ..., size, T)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, number * size - F)])
    return jnp.moveaxis(x.reshape(*lead, T, number, size), (-2, -1), (0, -2))

  # The products of a slice are recomputed in the backward pass.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def body(sums, part):
    q, k = part
    x = (k[..., None, :] * columns).reshape(*lead, size, -1, *grid)
    own = c.shape[: c.ndim - len(grid)]
    shape = *(1,) * (len(lead) - len(own)), *own, 1, 1, *c.shape[len(own) :]
    spread = c.reshape(shape)
    y = toeplitz.multiply(spread, x, len(grid)).reshape(*lead, size, -1, T)
    return sums + jnp.einsum("...ft,...fet->...te", q, y), None

  start = jnp.zeros((*lead, T, columns.shape[-2]), q.dtype)
  start = devices.vary_like(start, q, k, columns, c)
  return jax.lax.scan(body, start, (split(q), split(k)))[0]
