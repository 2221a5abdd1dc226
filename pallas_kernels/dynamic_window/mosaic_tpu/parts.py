"""Parts of the TPU kernels: the loops, where a window lies, logits and neighbours."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.dynamic_window.mosaic_tpu.plan import Plan


@dataclasses.dataclass(frozen=True)
class Place:
  """A pixel of a tile.

  Attributes:
    row, column: in the tile.
    down, right: of its window's first tap, in the table of distances.
    top, left: of its window's first tap, in the halo.
  """

  row: Any
  column: Any
  down: Any
  right: Any
  top: Any
  left: Any


def each_pixel(plan: Plan, visit: Callable[[Place], None]) -> None:
  """Calls `visit` for the pixels of a tile, one after the other."""
  i, j = pl.program_id(1), pl.program_id(2)

  @pl.loop(0, plan.rows.size)
  def _(row):
    down, top = plan.rows.place(i, row)

    @pl.loop(0, plan.columns.size)
    def _(column):
      right, left = plan.columns.place(j, column)
      visit(Place(row, column, down, right, top, left))


def each_row(plan: Plan, step: Callable, carry):
  """Returns the carry after step(row, carry) for all rows of a window."""
  if not plan.unrolled:
    return jax.lax.fori_loop(0, plan.window, step, carry)
  for row in range(plan.window):
    carry = step(row, carry)
  return carry


def spread(x):
  """Returns channels (n, 128) along a first axis, (n, 1, 128)."""
  return x.astype(jnp.float32)[:, None, :]


def widened(plan: Plan, v, wide):
  """Returns a halo in float32, in whose memory a row of taps begins anywhere."""
  if not plan.narrow:
    return v

  @pl.loop(0, plan.rows.halo)
  def _(row):
    wide[row] = v[row].astype(jnp.float32)

  return wide


def logits(plan: Plan, place: Place, row, query, keys, bias, relative):
  """Returns the logits of a row of taps, (taps, 128)."""
  distance = relative[place.down + row, pl.ds(place.right, plan.taps), :]
  return bias[row] + distance + (query * keys[row]).sum(axis=0)


def near(plan: Plan, place: Place, row, values, begin: int = 0, count: int = 0):
  """Returns the values of a row of taps, (channels, taps, 128)."""
  channels = pl.ds(begin, count or plan.c)
  return values[place.top + row, channels, pl.ds(place.left, plan.taps), :]
