"""The TPU kernels of the backward pass, for the rows and for the first stream's keys.

grid (U, rows, first keys, second keys) and (U, first keys, rows, second keys).
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.third_order.mosaic_tpu import parts
from pallas_kernels.third_order.mosaic_tpu.plan import ROWS, Plan


def queries(plan: Plan, start, *refs):
  """Computes dq of a tile of rows."""
  *given, dq, acc, columns, marks = refs
  arrays, lines, (own, first, second) = given[:6], given[6:9], given[9:]
  i, at, to = pl.program_id(1), pl.program_id(2), pl.program_id(3)

  @pl.when((at == 0) & (to == 0))
  def _():
    acc[...] = jnp.zeros(acc.shape, jnp.float32)
    _spread(plan, lines, columns, own, marks)

  place = parts.Place.of(plan, start[0], i, at, to)
  ids = (first, second, marks) if plan.packed else None

  def visit(masked):
    def turn(number):
      k2, sum_ = arrays[2][...], None
      for line, _, change in _triples(
        plan, place, masked, arrays, columns, number, ids
      ):
        by = parts.product(plan, change.astype(k2.dtype), k2, 1, 0)
        sum_ = parts.plus(sum_, by * arrays[1][pl.ds(line, 1), :])
      acc[...] += sum_

    parts.turns(plan, place, masked, turn)

  parts.when(plan, place, visit)

  @pl.when((at == pl.num_programs(2) - 1) & (to == pl.num_programs(3) - 1))
  def _():
    dq[...] = acc[...].astype(dq.dtype)


def keys(plan: Plan, start, *refs):
  """Computes dk and dv of a tile of the first stream."""
  *given, dk, dv, by_key, by_value, columns, marks = refs
  arrays, lines, (own, first, second) = given[:6], given[6:9], given[9:]
  j, at, to = pl.program_id(1), pl.program_id(2), pl.program_id(3)

  @pl.when((at == 0) & (to == 0))
  def _():
    by_key[...] = jnp.zeros(by_key.shape, jnp.float32)
    by_value[...] = jnp.zeros(by_value.shape, jnp.float32)

  @pl.when(to == 0)
  def _():
    _spread(plan, lines, columns, own, marks)

  place = parts.Place.of_keys(plan, start[0], j, at, to)
  ids = (first, second, marks) if plan.packed else None

  def visit(masked):
    def turn(number):
      q, _, k2, _, v2, g = (x[...] for x in arrays)
      given = plan, place, masked, arrays, columns, number, ids
      for line, weight, change in _triples(*given):
        by = parts.product(plan, change.astype(k2.dtype), k2, 1, 0)
        by_key[line] += _folded(q.astype(jnp.float32) * by)
        values = parts.product(plan, weight.astype(v2.dtype), v2, 1, 0)
        by_value[line] += _folded(g.astype(jnp.float32) * values)

    parts.turns(plan, place, masked, turn)

  parts.when(plan, place, visit)

  @pl.when((at == pl.num_programs(2) - 1) & (to == pl.num_programs(3) - 1))
  def _():
    dk[...] = by_key[...].sum(axis=1)
    dv[...] = by_value[...].sum(axis=1)


def _spread(plan: Plan, lines, columns, own, marks) -> None:
  """Spreads top, share and delta of a tile of rows, and their ids, over the lanes."""
  for n, line in enumerate(lines):
    columns[n] = parts.spread(line[...])
  if plan.packed:
    marks[...] = parts.spread(own[...])


def _triples(
  plan: Plan, place, masked: bool, arrays, columns, number, ids
) -> Iterator[tuple[Any, Any, Any]]:
  """Yields (line, weights, gradients of scores) of `ROWS` keys of the first stream."""
  q, k1, k2, v1, v2, g = arrays
  dtype, begin = k2.dtype, pl.multiple_of(number * ROWS, ROWS)
  query, slope = (x[...].astype(jnp.float32) for x in (q, g))
  k, v = (x[pl.ds(begin, ROWS), :] for x in (k1, v1))
  others, other_values = k2[...], v2[...]
  width = others.shape[0]
  top, share, delta = (parts.across(columns[n], width) for n in range(3))
  seen = parts.second_seen(plan, place, ids) if masked else None
  for line in range(ROWS):
    left = (query * k[line : line + 1]).astype(dtype)
    weight = jnp.exp(parts.product(plan, left, others, 1, 1) - top) * share
    if masked:
      own = parts.first_seen(plan, place, ids, begin + line, seen)
      weight = jnp.where(own, weight, 0.0)
    left = (slope * v[line : line + 1]).astype(dtype)
    change = parts.product(plan, left, other_values, 1, 1) - delta
    yield begin + line, weight, weight * change


def _folded(x):
  """Adds up rows to 8 of them."""
  return x.reshape(-1, ROWS, x.shape[1]).sum(axis=0)
