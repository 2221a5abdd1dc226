"""Gradients of a program's operands in the backward kernel.

Each is made for every batch entry and query head by itself; sums over those, and a
scalar's over its line, are left to XLA. A cell's blocks are written as they are made;
its array begins as zeros, since blocks that no list names are never visited.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu.operands import LANES, Operand
from pallas_kernels.flash.mosaic_tpu.part import Part, Plan


def describe(operand: Operand, plan: Plan, shapes, where):
  """Shape and blocks of an operand's gradient, or two None.

  Args:
    operand: of the program.
    plan: of the kernel.
    shapes: (B, N, K, rows of queries, rows of keys).
    where: (b, n, i, j) of a grid step.
  """
  B, N, K, queries, keys = shapes
  if not operand.differentiable:
    return None, None
  match operand.kind:
    case "cell":
      shape = (B, N, queries, keys)
      blocks = pl.BlockSpec((None, None, plan.block_q, plan.block_k), where)
    case "column":

      def column(*step):
        b, n, _, j = where(*step)
        return b, n, 0, j

      shape = (B, N, 1, keys)
      blocks = pl.BlockSpec((None, None, 1, plan.block_k), column)
    case _:
      lines = (N // K, queries // plan.block_q, 1, plan.block_q)
      shape = (B, K, *lines)
      blocks = pl.BlockSpec((None, None, *lines), lambda b, h, *_: (b, h, 0, 0, 0, 0))
  return jax.ShapeDtypeStruct(shape, jnp.float32), blocks


def blank(operand: Operand, shape) -> jax.Array | None:
  """What a cell's gradient begins as."""
  if shape is None or operand.kind != "cell":
    return None
  return jnp.zeros(shape.shape, shape.dtype)


def scratch(operand: Operand, plan: Plan):
  """Where a column's gradient gathers, lane by lane."""
  if not operand.differentiable or operand.kind != "column":
    return None
  return pltpu.VMEM((plan.block_k, LANES), jnp.float32)


def start(plan: Plan, refs: tuple, gathered: tuple, first, first_of_key) -> None:
  """Clears what adds up: lines at the `first` step, columns as a key block begins."""
  for operand, ref, columns in zip(plan.operands, refs, gathered, strict=True):
    if columns is not None:
      _clear(first_of_key, columns)
    elif ref is not None and operand.kind != "cell":
      _clear(first, ref)


def add(part: Part, member, number: int, tile: jax.Array, refs, gathered) -> None:
  """Adds a part's slope to the gradient of operand `number`."""
  match part.plan.operands[number].kind:
    case "cell":
      refs[number][part.rows, part.columns] = tile.T
    case "column":
      gathered[number][part.columns, :] += sum(
        tile[:, lane : lane + LANES] for lane in range(0, tile.shape[1], LANES)
      )
    case _:
      refs[number][member, part.i, :, part.rows] += tile.sum(axis=0, keepdims=True)


def finish(plan: Plan, refs: tuple, gathered: tuple, last_of_key, unseen) -> None:
  """Writes columns; clears the cells' block that an empty list points to."""
  for operand, ref, columns in zip(plan.operands, refs, gathered, strict=True):
    if columns is not None:
      _reduce(last_of_key, ref, columns)
    elif ref is not None and operand.kind == "cell":
      _clear(unseen, ref)


def _clear(when, ref):
  @pl.when(when)
  def _():
    ref[...] = jnp.zeros_like(ref)


def _reduce(when, ref, columns):
  @pl.when(when)
  def _():
    ref[...] = columns[...].T.sum(axis=0, keepdims=True)
