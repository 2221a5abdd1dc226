"""Where dq gathers in the backward kernel: in fast memory, or outside it."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import layout
from pallas_kernels.flash.mosaic_tpu.operands import LANES


def describe(shapes, dtype, resident):
  """Shape and blocks of dq: those of a whole group, or the array where it lies."""
  B, N, K, queries, _, H, _ = shapes
  group = N // K
  if not resident:
    shape = jax.ShapeDtypeStruct((B, N, queries, H), jnp.float32)
    return shape, pl.BlockSpec(memory_space=pl.ANY)
  shape = jax.ShapeDtypeStruct(layout.shape(B, queries, N, H), dtype)
  if H % LANES == 0:
    return shape, pl.BlockSpec((None, queries, group * H), lambda b, h, *_: (b, 0, h))
  block = (None, group, queries, H)
  return shape, pl.BlockSpec(block, lambda b, h, *_: (b, h, 0, 0))


def _arrival(plan, refs, b, n, i):
  """The transfer of this step's dq from the device's memory."""
  buffer, arrived, _ = refs.transfer
  return pltpu.make_async_copy(_place(plan, refs, b, n, i), buffer, arrived.at[0])


def _departure(plan, refs, b, n, i):
  """The transfer of this step's dq to the device's memory."""
  buffer, arrived, _ = refs.transfer
  return pltpu.make_async_copy(buffer, _place(plan, refs, b, n, i), arrived.at[1])


def _place(plan, refs, b, n, i):
  rows = pl.ds(pl.multiple_of(i * plan.block_q, LANES), plan.block_q)
  return refs.dq.at[b, n, rows, :]


def fetch(plan, refs, b, n, i) -> None:
  """Begins to bring this step's dq, once an earlier step's has gone."""
  settle(plan, refs, b, n, i)
  _arrival(plan, refs, b, n, i).start()


def put_back(plan, refs, b, n, i) -> None:
  """Adds what this step has found to its dq, and begins to send that."""
  _arrival(plan, refs, b, n, i).wait()
  refs.transfer[0][...] += refs.dq_sum[0]
  _departure(plan, refs, b, n, i).start()
  refs.transfer[2][0] = 1


def settle(plan, refs, b, n, i) -> None:
  """Waits for what an earlier step sent, if one did; all transfers are of one size."""
  pending = refs.transfer[2]

  @pl.when(pending[0] == 1)
  def _():
    _departure(plan, refs, b, n, i).wait()
    pending[0] = 0


def write(plan, dq, dq_sum) -> None:
  """Writes a group's dq, a block of queries at a time."""
  members, queries, H = dq_sum.shape

  def block(i, _):
    rows = pl.ds(pl.multiple_of(i * plan.block_q, LANES), plan.block_q)
    for member in range(members):
      value = (dq_sum[member, rows, :] * plan.scale).astype(dq.dtype)
      if len(dq.shape) == 2:
        dq[rows, member * H : (member + 1) * H] = value
      else:
        dq[member, rows, :] = value

  jax.lax.fori_loop(0, queries // plan.block_q, block, None)
