"""The passes of InfoNCE in plain JAX: tiles of rows, each against all columns."""

import functools

import jax
import jax.numpy as jnp

from attnjax.core import derivatives, devices
from attnjax.core.contrastive import gradients
from attnjax.core.contrastive.marks import Marks, Slopes, counted, matching
from attnjax.core.dtypes import accumulator_dtype

# Scores of a tile: 8 MiB in float32.
_SCORES = 1 << 21


def passes(*, symmetric: bool, tiles: int | None = None) -> gradients.Passes:
  """Returns the passes, on all devices.

  Args:
    symmetric: whether the sums of columns are computed.
    tiles: rows of a tile; the default if None.
  """

  def spread(function, specs, **constants):
    return devices.per_device(functools.partial(function, **constants), *specs)

  tangent = derivatives.tangent_of(functools.partial(plain, symmetric=symmetric))
  return gradients.composed(spread, forward, backward, tangent, tiles=tiles)


def forward(x, y, scale, rows: Marks, columns: Marks, mask, *, positive: bool, tiles):
  """Computes (top, total, positive score) of rows, see `gradients`."""

  def tile(x, rows, mask):
    return _sums(x, y, scale, rows, columns, mask, positive)

  return _by_tiles(tile, (x, rows, mask), y.shape[0], tiles)


def backward(
  x, y, scale, rows: Marks, columns: Marks, mask, own: Slopes, others, *, uses, tiles
):
  """Computes sum_j dscore[i, j] y[j] for every row, see `gradients`."""

  def tile(x, rows, mask, own):
    score = _scores(x, y, scale)
    slope = jnp.zeros(score.shape, score.dtype)
    for used, line in zip(uses, (Slopes(*(z[:, None] for z in own)), others)):
      slope += jnp.exp(score - line.top) * line.total if used else 0
    seen = counted(rows, columns, mask)
    if seen is not None:
      slope = jnp.where(seen, slope, 0)
    both = own.positive[:, None] + others.positive
    slope = jnp.where(matching(rows, columns), slope + both, slope)
    return jnp.matmul(slope.astype(y.dtype), y, preferred_element_type=slope.dtype)

  return _by_tiles(tile, (x, rows, mask, own), y.shape[0], tiles)


def plain(x, data: gradients.Data, *, symmetric: bool):
  """Computes `gradients.Sums` with JAX's own derivatives, each tile computed again."""
  q, items, scale = x
  sides = (q, items), (data.queries, data.items), data.mask
  found = _plain(*sides, scale, True)
  if symmetric:
    arrays, marks, mask = sides
    mask = None if mask is None else mask.T
    found += _plain(arrays[::-1], marks[::-1], mask, scale, False)[:2]
  return found


def _plain(arrays, marks, mask, scale, positive: bool):
  @jax.checkpoint
  def tile(x, rows, mask):
    return _sums(x, arrays[1], scale, rows, marks[1], mask, positive)

  return _by_tiles(tile, (arrays[0], marks[0], mask), arrays[1].shape[0], None)


def _scores(x, y, scale):
  wide = accumulator_dtype(x)
  return scale.astype(wide) * jnp.einsum("rd,cd->rc", x, y, preferred_element_type=wide)


def _sums(x, y, scale, rows, columns, mask, positive: bool):
  """Returns (top, total, positive score) of a tile of rows."""
  score, seen = _scores(x, y, scale), counted(rows, columns, mask)
  own = jnp.zeros(x.shape[0], score.dtype)
  if positive:
    own = jnp.where(matching(rows, columns), score, 0).sum(axis=1)
  if seen is not None:
    score = jnp.where(seen, score, -jnp.inf)
  top = jax.lax.stop_gradient(score.max(axis=1))
  top = jnp.where(top == -jnp.inf, 0, top)
  return top, jnp.exp(score - top[:, None]).sum(axis=1), own


def _by_tiles(function, rows, columns: int, tile: int | None):
  """Returns function(*rows) computed for tiles of rows, one after the other.

  Args:
    function: of arrays whose first axis is the tile's rows.
    rows: a tree of such arrays.
    columns: scores of a row.
    tile: rows of a tile; as many as have _SCORES scores if None.
  """
  R = jax.tree.leaves(rows)[0].shape[0]
  tile = max(8, _SCORES // max(columns, 1)) if tile is None else tile
  if R <= tile:
    return function(*rows)
  count = -(-R // tile)

  def cut(x):
    x = jnp.pad(x, ((0, count * tile - R), *[(0, 0)] * (x.ndim - 1)))
    return x.reshape(count, tile, *x.shape[1:])

  found = jax.lax.map(lambda given: function(*given), jax.tree.map(cut, rows))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:R], found)
