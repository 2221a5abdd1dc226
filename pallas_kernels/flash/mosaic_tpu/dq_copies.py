"""Sums that gather in the device's memory, a tile at a time: read, added to, written.

Two buffers take turns, so that a tile is on its way back while the next step computes.
A tile that has not yet arrived back is waited for before it is read again.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu.operands import LANES

ARRIVES, LEAVES = 0, 1


@dataclasses.dataclass(frozen=True)
class Gathering:
  """A kernel's memory for one such sum.

  Attributes:
    array: in the device's memory.
    buffers: (2, *tile).
    done: semaphores (2, 2), of each buffer's arrival and leaving.
    state: int32 (3,): of each buffer, the number of the tile that leaves it, or -1;
      and the buffer of this step.
  """

  array: Any
  buffers: Any
  done: Any
  state: Any

  @staticmethod
  def scratch(*tile: int):
    """What it needs besides the array."""
    return (
      pltpu.VMEM((2, *tile), jnp.float32),
      pltpu.SemaphoreType.DMA((2, 2)),
      pltpu.SMEM((3,), jnp.int32),
    )

  def begin(self) -> None:
    """Nothing is on its way."""
    self.state[0], self.state[1], self.state[2] = -1, -1, 0

  def fetch(self, number, place) -> None:
    """Begins to bring tile `number`, which lies at `place` of the array."""
    own = self.state[2]
    for buffer in range(2):
      left = self.state[buffer]
      self._wait(buffer, place, (left >= 0) & ((own == buffer) | (left == number)))
    self._copy(own, place, ARRIVES).start()

  def arrived(self, place):
    """The buffer of this step, once its tile is there."""
    own = self.state[2]
    self._copy(own, place, ARRIVES).wait()
    return self.buffers.at[own]

  def put_back(self, number, place) -> None:
    """Begins to send this step's tile back; the other buffer's turn is next."""
    own = self.state[2]
    self._copy(own, place, LEAVES).start()
    self.state[own] = number
    self.state[2] = 1 - own

  def settle(self, place) -> None:
    """Waits until all is back; transfers are of one size, so any place will do."""
    for buffer in range(2):
      self._wait(buffer, place, self.state[buffer] >= 0)

  def _wait(self, buffer, place, when) -> None:
    @pl.when(when)
    def _():
      self._copy(buffer, place, LEAVES).wait()
      self.state[buffer] = -1

  def _copy(self, buffer, place, way):
    near, far, done = self.buffers.at[buffer], self.array.at[place], self.done
    pair = (far, near) if way == ARRIVES else (near, far)
    return pltpu.make_async_copy(*pair, done.at[buffer, way])


def queries(plan, b, n, i):
  """Where a query tile of dq lies."""
  rows = pl.ds(pl.multiple_of(i * plan.block_q, LANES), plan.block_q)
  return b, n, rows, slice(None)


def describe(shapes, dtype, resident):
  """Shape and blocks of dq: those of a whole group, or the array where it lies."""
  B, N, K, rows, _, H, _ = shapes
  if not resident:
    shape = jax.ShapeDtypeStruct((B, N, rows, H), jnp.float32)
    return shape, pl.BlockSpec(memory_space=pl.ANY)
  shape = jax.ShapeDtypeStruct((B, N, rows, H), dtype)
  return shape, pl.BlockSpec((None, N // K, rows, H), lambda b, h, *_: (b, h, 0, 0))


def write(plan, dq, dq_sum) -> None:
  """Writes a group's dq, a tile of queries at a time."""
  members, rows, _ = dq_sum.shape

  def block(i, _):
    at = pl.ds(pl.multiple_of(i * plan.block_q, LANES), plan.block_q)
    for member in range(members):
      dq[member, at, :] = (dq_sum[member, at, :] * plan.scale).astype(dq.dtype)

  jax.lax.fori_loop(0, rows // plan.block_q, block, None)
