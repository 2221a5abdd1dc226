"""The TPU kernel of the forward pass: grid (U, rows, first keys, second keys).

The greatest score and the sum of a row lie in all lanes, or, the sum, in parts: an
element of a row of scores is added to the lane that it stands in, and lanes are added
up at the end. Scores of some keys of the first stream share a greatest score, so that
lanes are compared once for all of them.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.third_order.mosaic_tpu import parts
from pallas_kernels.third_order.mosaic_tpu.plan import LANES, ROWS, Plan

# Below all scores, and finite: a row that sees nothing has no NaN.
LEAST = float(jnp.finfo(jnp.float32).min)


def forward(
  plan: Plan, start, q, k1, k2, v1, v2, own, first, second, out, top, total, *scratch
):
  """Computes a tile of rows; the steps over pairs of tiles of keys add to scratch."""
  most, sums, acc, marks = scratch
  i, at, to = pl.program_id(1), pl.program_id(2), pl.program_id(3)

  @pl.when((at == 0) & (to == 0))
  def _():
    most[...] = jnp.full(most.shape, LEAST, jnp.float32)
    sums[...] = jnp.zeros(sums.shape, jnp.float32)
    acc[...] = jnp.zeros(acc.shape, jnp.float32)
    if plan.packed:
      marks[...] = parts.spread(own[...])

  place = parts.Place.of(plan, start[0], i, at, to)
  arrays = q, k1, k2, v1, v2

  def visit(masked):
    step = functools.partial(_turn, plan, place, masked, arrays, scratch)
    ids = (first, second, marks) if plan.packed else None
    parts.turns(plan, place, masked, lambda turn: step(turn, ids))

  parts.when(plan, place, visit)

  @pl.when((at == pl.num_programs(2) - 1) & (to == pl.num_programs(3) - 1))
  def _():
    whole = sums[...].sum(axis=1, keepdims=True)
    some = whole > 0
    share = jnp.where(some, 1 / jnp.where(some, whole, 1), 0)
    out[...] = (acc[...] * share).astype(out.dtype)
    # A row that sees nothing has the top 0.
    line = jnp.where(some, most[...], 0.0)
    top[...] = line.T[:1]
    total[...] = jnp.broadcast_to(whole, line.shape).T[:1]


def _turn(plan: Plan, place, masked: bool, arrays, scratch, turn, ids):
  """Adds `ROWS` keys of the first stream, `joint` at a time."""
  q, k1, k2, v1, v2 = arrays
  most, sums, acc, _ = scratch
  dtype, at = k2.dtype, pl.multiple_of(turn * ROWS, ROWS)
  query, keys = q[...].astype(jnp.float32), k1[pl.ds(at, ROWS), :]
  values, others, other_values = v1[pl.ds(at, ROWS), :], k2[...], v2[...]
  seen = parts.second_seen(plan, place, ids) if masked else None
  for begin in range(0, ROWS, plan.tiles.joint):
    scores, lines = [], range(begin, begin + plan.tiles.joint)
    for line in lines:
      left = (query * keys[line : line + 1]).astype(dtype)
      score = parts.product(plan, left, others, 1, 1)
      if masked:
        own = parts.first_seen(plan, place, ids, at + line, seen)
        score = jnp.where(own, score, -jnp.inf)
      scores.append(score)
    old = most[...]
    new = jnp.maximum(old, _greatest(scores).max(axis=1, keepdims=True))
    factor = jnp.exp(old - new)
    added, part = None, None
    for line, score in zip(lines, scores):
      weight = jnp.exp(score - parts.across(new, score.shape[1]))
      added = parts.plus(added, _by_lane(weight))
      value = parts.product(plan, weight.astype(dtype), other_values, 1, 0)
      part = parts.plus(part, value * values[line : line + 1])
    most[...] = new
    sums[...] = sums[...] * factor + added
    acc[...] = acc[...] * parts.across(factor, acc.shape[1]) + part


def _greatest(scores):
  """Returns the greatest of some scores by lane, (rows, 128)."""
  pieces = [s[:, n : n + LANES] for s in scores for n in range(0, s.shape[1], LANES)]
  return functools.reduce(jnp.maximum, pieces)


def _by_lane(weight):
  """Returns the sums of weights by lane, (rows, 128)."""
  pieces = [weight[:, n : n + LANES] for n in range(0, weight.shape[1], LANES)]
  return functools.reduce(jax.lax.add, pieces)
