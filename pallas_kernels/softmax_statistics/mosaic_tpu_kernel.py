"""The TPU kernels: grids over lists of blocks as in `flash.mosaic_tpu`, without values.

Columns hold keys down the sublanes and queries along the lanes, rows the other way, so
that sums and maxima are taken lane by lane and cross the lanes once, at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu import operands
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.subtile import LOG2E, Part, spread

# Greater than any index of a key.
NONE = 2**31 - 1


def columns(plan, flat, q, k, lse, given, out, total, spreads):
  """Adds up the weights of each key of a tile, (1, keys), over its queries."""
  b, h, *step = (pl.program_id(axis) for axis in range(5))
  visit = plan.lists.visit(flat, b, h, *step)

  @pl.when(visit.first)
  def _():
    total[...] = jnp.zeros_like(total)
    spread(given, spreads)

  part = Part(plan, given, spreads, b, visit.n, visit.column, visit.row, 0, 0)

  def compute(masked):
    for row, column in plan.parts():
      own = dataclasses.replace(part, row=row, column=column)
      raw = plan.product(k[own.columns, :], q[own.rows, :], 1, 1)
      weight = _power(_nats(own, raw) - lse[:, own.rows])
      inside = own.seen() if masked else None
      if plan.T != plan.queries and plan.score is not None:
        ended = own.queries() < plan.T
        inside = ended if inside is None else inside & ended
      weight = weight if inside is None else jnp.where(inside, weight, 0.0)
      total[own.columns, :] += _lanes(weight)

  _choose(plan, flat, visit, compute)

  @pl.when(visit.last)
  def _():
    out[...] = total[...].T.sum(axis=0, keepdims=True)


def rows(plan, flat, q, k, lse, given, argmax, out, top, best, entropy, below, spreads):
  """Finds the greatest score, its key and the entropy of each query of a tile."""
  b, n, *step = (pl.program_id(axis) for axis in range(5))
  visit = plan.lists.visit(flat, b, n, *step)

  @pl.when(visit.first)
  def _():
    top[...] = jnp.full_like(top, -jnp.inf)
    best[...] = jnp.full_like(best, NONE)
    entropy[...] = jnp.zeros_like(entropy)
    below[...] = operands.spread(lse[...])
    spread(given, spreads)

  part = Part(plan, given, spreads, b, visit.n, visit.row, visit.column, 0, 0)

  def compute(masked):
    for row, column in plan.parts():
      own = dataclasses.replace(part, row=row, column=column)
      raw = plan.product(q[own.rows, :], k[own.columns, :], 1, 1)
      score, places = _nats(own, raw), own.keys()
      if masked:
        score = jnp.where(own.seen(), score, -jnp.inf)
      apart = score - operands.across(below[own.rows, :], plan.inner_k)
      weight = _power(apart)
      lost = jnp.where(weight == 0, 0.0, -weight * apart)
      entropy[own.rows, :] += _lanes(lost)
      for lane in range(0, plan.inner_k, LANES):
        one = (x[:, lane : lane + LANES] for x in (score, places))
        _greater(own.rows, *one, top, best)

  _choose(plan, flat, visit, compute)

  @pl.when(visit.last)
  def _():
    greatest, found = top[...].T, best[...].T
    most = greatest.max(axis=0, keepdims=True)
    first = jnp.where(greatest == most, found, NONE).min(axis=0, keepdims=True)
    nothing = (first == NONE) | (most == -jnp.inf)
    argmax[...] = jnp.where(nothing, -1, first)
    out[...] = entropy[...].T.sum(axis=0, keepdims=True)


def _greater(rows_, score, places, top, best):
  """Keeps the greater score of each lane, of equal ones that of the lesser key."""
  old, place = top[rows_, :], best[rows_, :]
  more = (score > old) | ((score == old) & (places < place))
  top[rows_, :] = jnp.where(more, score, old)
  best[rows_, :] = jnp.where(more, places, place)


def _choose(plan, flat, visit, compute):
  """Computes a step with or without the mask, or not at all."""
  full, count = flat.full[visit.line], flat.count[visit.line]
  if plan.masks:
    pl.when(visit.block < full)(lambda: compute(False))
    partial = (visit.block >= full) & (visit.block < count)
    pl.when(partial)(lambda: compute(True))
  else:
    pl.when(visit.block < count)(lambda: compute(False))


def _nats(part, raw):
  score = part.score(raw)
  unit = part.plan.unit
  return score if unit == 1.0 else score * unit


def _power(x) -> jax.Array:
  return jnp.exp2(x * LOG2E)


def _lanes(x):
  """Adds up columns that share a lane: (n, m) to (n, LANES)."""
  return sum(x[:, lane : lane + LANES] for lane in range(0, x.shape[1], LANES))
