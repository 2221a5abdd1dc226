"""The tangent map of softmax attention, in tiles: memory linear in T and S.

  weight[t, s] = exp(score - top) / total
  dscore[t, s] = score'(raw) (scale (dq.k + q.dk)) + (operands' part)
  dlse[t]      = sum_s weight dscore                  [+ weight of the sink x dsink]
  dout[t]      = sum_s weight keep (dscore v + dv) - dlse out

It is linear in the tangents and in plain JAX, so that JAX transposes and differentiates
it further: derivatives of any order rest on it.
"""

import jax
import jax.numpy as jnp

from attnjax.core import devices
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.softmax import unseen
from attnjax.core.softmax.gradients import sink_weight

ROWS, COLUMNS = 128, 512  # of a tile


def tangent(x, y, dx, *, scale):
  """Computes (dout, dlse), the tangents of out and lse.

  Args:
    x: (q, k, v, sinks, program), the program with all of the mask.
    y: (out, top, total), the results of the forward pass.
    dx: tangents of x.
    scale: of q . k.
  """
  x, y, dx = devices.vary((x, y, dx))
  (q, k, v, sinks, program), (out, top, total) = x, y
  # A row that sees a NaN has it in `total`.
  q, k, v = unseen.clean(q), unseen.clean(k), unseen.clean(v)
  # Wide, since their transposes are sums over all tiles.
  dq, dk, dv, dsinks = jax.tree.map(lambda a: a.astype(accumulator_dtype(a)), dx[:4])
  slopes = [
    a.astype(accumulator_dtype(a)) if _floats(a) else None for a in dx[4].operands
  ]
  T, S, K = q.shape[1], k.shape[1], k.shape[2]
  rows, columns = even(T, ROWS), even(S, COLUMNS)
  tiles = [_tiles(a, K, rows) for a in (q, dq, out, top[..., None], total[..., None])]
  keys = [_tiles(a, K, columns)[:, :, :, 0] for a in (k, v, dk, dv)]
  operands = [pad(a, rows, columns) for a in program.operands]
  shape = (S, q.shape[2] // K, scale)

  @jax.checkpoint  # the weights of a tile are recomputed, not kept
  def row(query, dquery, out, top, total, i):
    @jax.checkpoint
    def step(carry, part):
      *part, j = part
      place = i, j, rows[1], columns[1]
      own = query, dquery, top, total
      change = _tile(program, operands, slopes, place, own, part, shape)
      return (carry[0] + change[0], carry[1] + change[1]), None

    start = (
      jnp.zeros(top.shape[:-1], accumulator_dtype(q)),
      jnp.zeros(out.shape, accumulator_dtype(q)),
    )
    start = devices.vary_like(start, top)
    (dlse, dout), _ = jax.lax.scan(step, start, (*keys, jnp.arange(columns[0])))
    return dlse, dout

  dlse, dout = jax.lax.map(lambda a: row(*a), (*tiles, jnp.arange(rows[0])))
  dlse, dout = join(dlse[..., None], T)[..., 0], join(dout, T)
  if sinks is not None:
    dlse = dlse + sink_weight(sinks, top, total) * dsinks
  return (dout - dlse[..., None] * out).astype(v.dtype), dlse.astype(total.dtype)


def _tile(program, operands, slopes, place, rows, part, shape):
  """Computes one tile's contributions to dlse and to dout + dlse out."""
  query, dquery, top, total = rows
  key, value, dkey, dvalue = part
  i, j, t_size, s_size = place
  S, group, scale = shape
  t = (i * t_size + jnp.arange(t_size))[None, None, None, :, None]
  s = (j * s_size + jnp.arange(s_size))[None, None, None, None]
  given = [by_head(cut(a, place), group) for a in operands]
  changes = [
    None if a is None else by_head(cut(pad(a, (0, t_size), (0, s_size)), place), group)
    for a in slopes
  ]
  raw = scale * _product("bkgth,bksh->bkgts", query, key)
  draw = scale * _product("bkgth,bksh->bkgts", dquery, key)
  draw = draw + scale * _product("bkgth,bksh->bkgts", query, dkey)
  seen = (s < S) & (total != 0)
  if program.seen is not None:
    seen = seen & program.seen(t, s, *(given[p] for p in program.seen.operands))
  raw, draw = (jnp.where(seen, x, 0.0) for x in (raw, draw))
  score, dscore = _scored(program, raw, draw, given, changes, t, s)
  weight = _weight(jnp.where(seen, score, 0.0), top, total, seen)
  change = jnp.where(seen, weight * dscore, 0.0)
  kept, dkept = weight, change
  if program.keep is not None:
    factor = program.keep(t, s, *(given[p] for p in program.keep.operands))
    kept, dkept = weight * factor, change * factor
  dout = _product("bkgts,bksv->bkgtv", dkept, value)
  dout = dout + _product("bkgts,bksv->bkgtv", kept, dvalue)
  return change.sum(axis=-1), dout


def _weight(score, top, total, seen):
  """Returns the weights; top counts as a constant, in derivatives too."""
  apart = score - jnp.where(seen, jax.lax.stop_gradient(top), 0.0)
  # Clamped to 0, which only rounding exceeds, with the derivative of the identity.
  apart = apart - jax.lax.stop_gradient(jnp.maximum(apart, 0.0))
  return jnp.where(seen, jnp.exp(apart) / jnp.where(seen, total, 1.0), 0.0)


def _scored(program, raw, draw, given, changes, t, s):
  """Returns the modified scores and their tangent."""
  if program.score is None:
    return raw, draw
  which = [p for p in program.score.operands if changes[p] is not None]
  floats = [given[p].astype(raw.dtype) for p in which]
  tangents = [changes[p].astype(raw.dtype) for p in which]

  def score(raw, *floats):
    own = dict(zip(which, floats))
    return program.score(
      raw, t, s, *(own.get(p, given[p]) for p in program.score.operands)
    )

  return jax.jvp(score, (raw, *floats), (draw, *tangents))


def even(length: int, most: int) -> tuple[int, int]:
  """Returns (number, size) of equal pieces of at most `most` that cover `length`."""
  number = max(1, -(-length // most))
  return number, max(1, -(-length // number))


def pad(x, rows, columns):
  """Pads an operand to whole tiles of rows[1] x columns[1] on the axes T and S."""
  sizes = [-x.shape[axis] % size for axis, (_, size) in ((2, rows), (3, columns))]
  whole = [0 if x.shape[a] == 1 else size for a, size in zip((2, 3), sizes)]
  return jnp.pad(x, ((0, 0), (0, 0), (0, whole[0]), (0, whole[1])))


def cut(x, place):
  """Returns the part of a padded operand that tile (i, j) reads."""
  i, j, t_size, s_size = place
  for axis, start, size in ((2, i * t_size, t_size), (3, j * s_size, s_size)):
    if x.shape[axis] > 1:
      x = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
  return x


def by_head(x, group):
  """Reshapes (B|1, N|1, t, s) to (B|1, K|1, G|1, t, s)."""
  heads = (-1, group) if x.shape[1] > 1 else (1, 1)
  return x.reshape(x.shape[0], *heads, *x.shape[2:])


def _tiles(x, K, pieces):
  """Splits (B, T, N, H) into (i, B, K, G, t, H), padded with zeros."""
  (i, t), (B, T, N, H) = pieces, x.shape
  x = jnp.pad(x, ((0, 0), (0, i * t - T), (0, 0), (0, 0)))
  return jnp.moveaxis(x.reshape(B, i, t, K, N // K, H), (1, 2), (0, 4))


def join(x, T):
  """Joins (i, B, K, G, t, V) to (B, T, N, V)."""
  x = jnp.moveaxis(x, (0, 4), (1, 2))
  B, i, t, K, G, V = x.shape
  return x.reshape(B, i * t, K * G, V)[:, :T]


def _floats(x) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)


def _product(formula, a, b):
  return jnp.einsum(formula, a, b, preferred_element_type=accumulator_dtype(a))
