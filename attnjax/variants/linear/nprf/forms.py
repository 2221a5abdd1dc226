"""Three ways to the sums over keys, (B, N, T, E + 1), of features times [v, 1]."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.core import toeplitz
from attnjax.variants.linear.nprf import kernel

# Numbers that one slice of features may take, 4 bytes each, in each of a few arrays.
SLICE = 1 << 20
TILE = 128


def whole(phi_q, phi_k, v, c, grid, causal, ids, positions) -> Float[Array, "B N T E1"]:
  """The definition; c (N, 2 D - 1, ...) of `kernel.table`."""
  T = phi_q.shape[2]
  places = np.indices(grid).reshape(len(grid), T)
  weights = _by_place(c, places, places, positions, positions, causal)
  weights = weights * jnp.einsum("bntf,bnsf->bnts", phi_q, phi_k)
  if ids is not None:
    weights = jnp.where((ids[:, :, None] == ids[:, None, :])[:, None], weights, 0)
  return jnp.einsum("bnts,bnse->bnte", weights, v)


def transform(phi_q, phi_k, v, c, grid) -> Float[Array, "B N T E1"]:
  """By Fourier transforms, a slice of features after the other.

  Args:
    phi_q: (B, N, T, F).
    phi_k: the same.
    v: (B, N, T, E + 1).
    c: (N, 2 T - 1, ...), one number a lag.
    grid: (T,), or the axes whose product is T.
  """
  B, N, T, F = phi_k.shape
  columns = v.swapaxes(2, 3)[:, :, None]  # (B, N, 1, E + 1, T)
  width = math.prod(toeplitz.fast_length(2 * side - 1) for side in grid)
  size = min(F, max(1, SLICE // (B * N * columns.shape[3] * width)))
  number = -(-F // size)

  def split(x):  # (B, N, T, F) -> (number, B, N, size, T)
    x = jnp.pad(x, [(0, 0)] * 3 + [(0, number * size - F)])
    return jnp.moveaxis(x.reshape(B, N, T, number, size), (3, 4), (0, 3))

  # The products of a slice are made again in the backward pass, not kept.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def body(sums, part):
    q, k = part
    x = (k[:, :, :, None] * columns).reshape(B, N, size, -1, *grid)
    y = toeplitz.multiply(c[:, None, None], x, len(grid))
    y = y.reshape(B, N, size, -1, T)
    return sums + jnp.einsum("bnft,bnfet->bnte", q, y), None

  return jax.lax.scan(body, jnp.zeros_like(v), (split(phi_q), split(phi_k)))[0]


def tiled(phi_q, phi_k, v, c, grid, causal, ids, positions) -> Float[Array, "B N T E1"]:
  """Directly, some queries after the other; the arguments are those of `whole`."""
  B, N, T, _ = phi_q.shape
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
      weights = toeplitz.rows(row, size)[None]
    else:
      weights = _by_place(c, place, places, position, positions, causal)
    weights = weights * jnp.einsum("bntf,bnsf->bnts", q, phi_k)
    if ids is not None:
      weights = jnp.where((own[:, :, None] == ids[:, None, :])[:, None], weights, 0)
    return None, jnp.einsum("bnts,bnse->bnte", weights, v)

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
    split(phi_q, 2),
    split(places, 1),
    split(ids, 1),
    split(spots, 1),
  )
  out = jax.lax.scan(body, None, parts)[1]  # (number, B, N, size, E + 1)
  return jnp.moveaxis(out, 0, 2).reshape(B, N, number * size, -1)[:, :, :T]


def _by_place(c, place, places, position, positions, causal):
  """c[key - query], (B|1, N, t, T), 0 for later keys if causal.

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
  weights = jnp.moveaxis(c[(slice(None), *index)], 0, 1)
  if causal:
    seen = (places[0] <= place[0][:, None]) & (lags[0] <= 0)
    weights = jnp.where(seen[:, None] if seen.ndim == 3 else seen, weights, 0)
  return weights
