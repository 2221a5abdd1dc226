"""Three algorithms for the sums over keys of weights times [v, 1].

Each row is summed relative to the greatest exponent that it sees, a factor that cancels
in the row's quotient: no sum underflows, and a key that a row does not see does not
affect the row's rounding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.core import devices, toeplitz
from attnjax.variants.linear.nprf import kernel

TILE = 128
# A smaller sum of products of features, each at most 1, has lost digits to underflow.
_LEAST = 1e-25


class Factors(NamedTuple):
  """The factors of weights and sums; `positive` features are given as logs.

  Attributes:
    q: (B, N, T, F), the queries' features; -inf, or 0, at padding.
    k: (B, N, S, F), the keys' features, like q.
    amplitude: (B, N, S), the log of a factor of each key's features; -inf at padding.
    columns: (B, N, S, E + 1), [v, 1].
  """

  q: Any
  k: Any
  amplitude: Any
  columns: Any


class Rows(NamedTuple):
  """Sums (B, N, T, E + 1), to be multiplied by exp(top); top (B, N, T)."""

  top: Any
  sums: Any


def joined(first: Rows, second: Rows) -> Rows:
  """Adds the sums over two sets of keys."""
  top = jnp.maximum(first.top, second.top)
  shift = finite(top)
  parts = (jnp.exp(x.top - shift)[..., None] * x.sums for x in (first, second))
  return Rows(top, sum(parts))


def finite(x):
  """Returns x with 0 for -inf, without a gradient."""
  x = jax.lax.stop_gradient(x)
  return jnp.where(x > -jnp.inf, x, 0)


def direct(x: Factors, logs: Float[Array, "#B N T S"], positive: bool) -> Rows:
  """Computes the sums by matrices of weights, exp(logs) times products of features."""
  logs = logs + x.amplitude[..., None, :]
  if not positive:
    return _weighed(logs, jnp.einsum("...tf,...sf->...ts", x.q, x.k), x.columns)
  tops = [finite(f.max(-1)) for f in (x.q, x.k)]
  q, k = (jnp.exp(f - top[..., None]) for f, top in zip((x.q, x.k), tops))
  product = jnp.einsum("...tf,...sf->...ts", q, k)
  rows = _weighed(logs + tops[1][..., None, :], product, x.columns)
  rows = Rows(rows.top + tops[0], rows.sums)
  real = (rows.top > -jnp.inf) & (x.q.max(-1) > -jnp.inf)
  lost = real & (rows.sums[..., -1] < _LEAST)

  def again(x, logs):
    one = jnp.ones((), logs.dtype)
    return _weighed(logs + _pairs(x.q, x.k), one, x.columns)

  def known(x, logs):
    del x, logs
    return rows

  return jax.lax.cond(lost.any(), again, known, x, logs)


def _weighed(logs, product, columns) -> Rows:
  top = jax.lax.stop_gradient(logs.max(-1))
  weights = jnp.exp(logs - finite(top)[..., None]) * product
  return Rows(top, jnp.einsum("...ts,...se->...te", weights, columns))


def _pairs(q, k):
  """Computes the log of the products of features (..., t, s), feature by feature."""

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total, part):
    q, k = part
    pair = q[..., :, None] + k[..., None, :]
    # Keeps NaN out of the gradients at padding.
    pair = jnp.where(pair > -jnp.inf, pair, -1e30)
    return jnp.logaddexp(total, pair), None

  parts = tuple(jnp.moveaxis(x, -1, 0) for x in (q, k))
  start = jnp.full((*q.shape[:-1], k.shape[-2]), -1e30, q.dtype)
  return jax.lax.scan(add, devices.vary_like(start, parts), parts)[0]


def tiled(x: Factors, c, grid, causal, ids, positions, positive) -> Array:
  """Computes the sums directly, tile by tile of queries; arguments as in `whole`."""
  B, N, T, _ = x.q.shape
  number = -(-T // TILE)
  size = -(-T // number)
  surplus = number * size - T
  flat = len(grid) == 1 and positions is None
  if flat:
    # The last tile reaches `surplus` rows beyond the first lag.
    lags = jnp.pad(kernel.spread(c, grid, causal), ((0, 0), (surplus, 0)))
  places = jnp.asarray(np.indices(grid).reshape(len(grid), T))

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def body(_, part):
    start, q, place, own, position = part
    if flat:
      first = number * size - size - start
      row = jax.lax.dynamic_slice_in_dim(lags, first, T + size - 1, axis=1)
      logs = toeplitz.rows(row, size)[None]
    else:
      logs = _by_place(c, place, places, position, positions, causal)
    if ids is not None:
      logs = jnp.where((own[:, :, None] == ids[:, None, :])[:, None], logs, -jnp.inf)
    return None, direct(x._replace(q=q), logs, positive).sums

  def split(x, axis):
    if x is None:
      return None
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, surplus)
    shape = (*x.shape[:axis], number, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, widths).reshape(shape), axis, 0)

  spots = None if positions is None else jnp.broadcast_to(positions, (B, T))
  parts = (
    jnp.arange(number) * size,
    split(x.q, 2),
    split(places, 1),
    split(ids, 1),
    split(spots, 1),
  )
  out = jax.lax.scan(body, None, parts)[1]  # (number, B, N, size, E + 1)
  return jnp.moveaxis(out, 0, 2).reshape(B, N, number * size, -1)[:, :, :T]


def _by_place(c, place, places, position, positions, causal):
  """Returns log c[key - query], (B|1, N, t, T), -inf for later keys if causal.

  place (axes, t) are the queries' points on the grid, places (axes, T) the keys'; with
  positions, (B, t) or (t,) and (B, T) or (T,), lags are of these.
  """
  if positions is None:
    lags = places[:, None, None, :] - place[:, None, :, None]
  else:
    lags = jnp.atleast_2d(positions)[:, None, :] - jnp.atleast_2d(position)[..., None]
    lags = lags.astype(int)[None]
  index = []
  for lag, L in zip(lags, c.shape[1:]):
    D = (L + 1) // 2
    index.append(jnp.clip(lag, 1 - D, D - 1) + D - 1)
  logs = jnp.moveaxis(c[(slice(None), *index)], 0, 1)
  if causal:
    seen = (places[0] <= place[0][:, None]) & (lags[0] <= 0)
    logs = jnp.where(seen[:, None] if seen.ndim == 3 else seen, logs, -jnp.inf)
  return logs
