"""Sums that accumulate in HBM: asynchronous copies read and write back each tile.

Two buffers take turns, so that a tile is written back while the next step computes.
A tile whose write is not yet complete is waited for before it is read again.
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
  """A kernel's memory for one sum that accumulates in HBM.

  Attributes:
    array: the sum, in HBM.
    buffers: (2, *tile), in VMEM.
    done: semaphores (2, 2), for the read into and the write from each buffer.
    state: int32 (3,): for each buffer, the number of the tile that is being written
      from it, or -1; then the buffer of this step.
  """

  array: Any
  buffers: Any
  done: Any
  state: Any

  @staticmethod
  def scratch(*tile: int):
    """Returns the shapes of buffers, semaphores and state."""
    return (
      pltpu.VMEM((2, *tile), jnp.float32),
      pltpu.SemaphoreType.DMA((2, 2)),
      pltpu.SMEM((3,), jnp.int32),
    )

  def begin(self) -> None:
    """Marks both buffers as free."""
    self.state[0], self.state[1], self.state[2] = -1, -1, 0

  def fetch(self, number, place) -> None:
    """Starts to read tile `number`, which lies at `place` of the array."""
    own = self.state[2]
    for buffer in range(2):
      left = self.state[buffer]
      self._wait(buffer, place, (left >= 0) & ((own == buffer) | (left == number)))
    self._copy(own, place, ARRIVES).start()

  def arrived(self, place):
    """Returns the buffer of this step after waiting for its tile."""
    own = self.state[2]
    self._copy(own, place, ARRIVES).wait()
    return self.buffers.at[own]

  def put_back(self, number, place) -> None:
    """Starts to write this step's tile back, and switches to the other buffer."""
    own = self.state[2]
    self._copy(own, place, LEAVES).start()
    self.state[own] = number
    self.state[2] = 1 - own

  def settle(self, place) -> None:
    """Waits for all writes; copies are of one size, so any `place` will do."""
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
  """Returns the index of a query tile of dq."""
  rows = pl.ds(pl.multiple_of(i * plan.block_q, LANES), plan.block_q)
  return b, n, rows, slice(None)


def describe(shapes, dtype, resident):
  """Returns shape and block spec of dq: blocks of a group, or all of it in HBM."""
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
