"""Parts of the TPU kernels: the tiles of a grid step, their masks, and products."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.third_order.mosaic_tpu.plan import LANES, ROWS, Plan


@dataclasses.dataclass(frozen=True)
class Place:
  """The tiles of a grid step.

  Attributes:
    start: the position of the first query.
    i: the tile of rows.
    j: the tile of the first stream.
    l: the tile of the second stream.
    there: whether the step has something to do.
  """

  start: Any
  i: Any
  j: Any
  l: Any  # noqa: E741
  there: Any

  @classmethod
  def of(cls, plan: Plan, start, i, at, to):
    """Returns the place of step (at, to) of a tile of rows."""
    one, two = (plan.keys(i, start, stream) for stream in (0, 1))
    j, l = one[0] + at, two[0] + to  # noqa: E741
    return cls(start, i, j, l, (j < one[1]) & (l < two[1]))

  @classmethod
  def of_keys(cls, plan: Plan, start, j, at, to):
    """Returns the place of step (at, to) of a tile of the first stream."""
    rows = plan.rows(j, start)
    i = rows[0] + at
    one, two = (plan.keys(i, start, stream) for stream in (0, 1))
    l = two[0] + to  # noqa: E741
    there = (i < rows[1]) & (l < two[1]) & (one[0] <= j) & (j < one[1])
    return cls(start, i, j, l, there)


def when(plan: Plan, place: Place, visit) -> None:
  """Calls visit(masked) if there is something to do."""
  full = place.there & (not plan.packed)
  for stream, tile in ((0, place.j), (1, place.l)):
    full = full & plan.all_see(place.i, place.start, stream, tile)

  @pl.when(full)
  def _():
    visit(False)

  @pl.when(place.there & jnp.logical_not(full))
  def _():
    visit(True)


def turns(plan: Plan, place: Place, masked: bool, turn) -> None:
  """Calls turn(number) for the keys of the first stream, `ROWS` at a time."""
  size = plan.tiles.first
  low, high = 0, size // ROWS
  if masked:
    # Of a partial tile only the keys that some row sees.
    ends = plan.sight.keys(*plan.positions(place.i, place.start), 0, plan.S)
    begin, end = ((x - place.j * size).clip(0, size) for x in ends)
    low, high = jax.lax.div(begin, ROWS), jax.lax.div(end + ROWS - 1, ROWS)

  def body(number, _):
    turn(number)

  jax.lax.fori_loop(low, high, body, None)


def second_seen(plan: Plan, place: Place, ids):
  """Returns which rows see which keys of the second stream's tile."""
  shape = plan.tiles.rows, plan.tiles.second
  row = _iota(shape, 0) + place.i * plan.tiles.rows
  key = _iota(shape, 1) + place.l * plan.tiles.second
  seen = plan.seen(row, key, place.start, 1)
  if ids is None:
    return row, seen
  _, second, marks = ids
  own = across(marks[...], shape[1])
  return row, seen & (own == second[...]) & (own >= 0)


def first_seen(plan: Plan, place: Place, ids, line, seen):
  """Returns which pairs are seen with key `line` of the first stream's tile."""
  row, both = seen
  key = place.j * plan.tiles.first + line
  both = both & plan.seen(row, key, place.start, 0)
  if ids is None:
    return both
  first, _, marks = ids
  same = marks[...] == first[pl.ds(line, 1), :]
  return both & across(same, both.shape[1])


def _iota(shape, axis: int):
  return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def product(plan: Plan, a, b, left: int, right: int):
  """Contracts axis `left` of a with axis `right` of b in float32."""
  return jax.lax.dot_general(
    a,
    b,
    (((left,), (right,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if plan.exact else None,
    preferred_element_type=jnp.float32,
  )


def spread(line):
  """Returns a line (1, n) down the sublanes, broadcast to all lanes: (n, 128)."""
  return jnp.broadcast_to(line, (LANES, line.shape[1])).T


def across(columns, width: int):
  """Returns columns (n, 128), equal in all lanes, as (n, width)."""
  return columns if width == LANES else jnp.tile(columns, (1, width // LANES))


def plus(x, y):
  """Returns x + y, or y if x is None."""
  return y if x is None else x + y
