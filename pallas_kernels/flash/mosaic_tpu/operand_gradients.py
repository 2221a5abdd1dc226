"""Gradients of a program's operands in the backward kernel.

The gradient of a line (a row or a column) is computed for every batch entry and query
head; XLA sums over those, and over the line for a scalar. The gradient of a cell has
the operand's shape: batch entries and heads that share it add to it, in VMEM where all
of it has room, else in HBM. It is zeroed first in HBM, since blocks that no list names
are never visited.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu.dq_copies import Gathering
from pallas_kernels.flash.mosaic_tpu.operands import LANES, Operand
from pallas_kernels.flash.mosaic_tpu.subtile import Part, Plan

# Bytes up to which a cell's gradient stays in VMEM.
ROOM = 4 << 20


def way(operand: Operand, B: int, N: int, queries: int, keys: int) -> str:
  """Returns how an operand's gradient is computed; "" if it has none.

  "line" and "column": for each (b, n). Cells have "own", tiles that are written once;
  "held", a sum over all that share the cell in VMEM; or "gathered", that sum in HBM.
  """
  if not operand.differentiable:
    return ""
  if operand.kind != "cell":
    return "column" if operand.kind == "column" else "line"
  if (operand.batches, operand.heads) == (B, N):
    return "own"
  return "held" if 4 * operand.heads * queries * keys <= ROOM else "gathered"


def ways(plan: Plan, shapes) -> tuple[str, ...]:
  """Returns each operand's way; `shapes` is (B, N, K, rows of queries, of keys)."""
  B, N, _, queries, keys = shapes
  return tuple(way(operand, B, N, queries, keys) for operand in plan.operands)


def order(operands, how) -> tuple[str, str]:
  """Returns the dimension semantics of the batch axis and of the axis of groups."""
  kept = [(o, w) for o, w in zip(operands, how) if w in ("held", "gathered")]
  batch = all(o.batches > 1 for o, _ in kept)
  group = all(w == "gathered" and o.heads > 1 for o, w in kept)
  return tuple("parallel" if free else "arbitrary" for free in (batch, group))


def describe(operand: Operand, how: str, plan: Plan, shapes, where: Callable):
  """Returns shape and block spec of an operand's gradient, or (None, None).

  Args:
    operand: an operand of the program.
    how: the operand's `way`.
    plan: the kernel's static parameters.
    shapes: (B, N, K, rows of queries, rows of keys).
    where: maps a grid step to (b, n, i, j).
  """
  B, N, K, queries, keys = shapes
  shape = (operand.batches, operand.heads, queries, keys)
  match how:
    case "":
      return None, None
    case "own":
      blocks = pl.BlockSpec((None, None, plan.block_q, plan.block_k), where)
    case "gathered":
      blocks = pl.BlockSpec(memory_space=pl.ANY)
    case "held":
      blocks = pl.BlockSpec(
        (None, *shape[1:]), lambda b, *_: (operand.line(b, 0)[0], 0, 0, 0)
      )
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


def blank(how: str, shape) -> jax.Array | None:
  """Returns initial zeros for a gradient whose unlisted tiles are never visited."""
  return jnp.zeros(shape.shape, shape.dtype) if how in ("own", "gathered") else None


def scratch(how: str, plan: Plan):
  """Returns scratch memory: a column's sums by lane, or that of `Gathering`."""
  if how == "column":
    return pltpu.VMEM((plan.block_k, LANES), jnp.float32)
  return Gathering.scratch(plan.block_q, plan.block_k) if how == "gathered" else None


class Slopes:
  """The gradients of all operands in one kernel, with the actions of each step."""

  def __init__(self, plan: Plan, how, refs, scratches, at):
    """Takes each operand's way, output and scratch memory, and the (b, n, i, j)."""
    self.plan, self.how, self.at = plan, how, at
    self.refs, self.scratches = refs, scratches
    self.arrived: dict = {}

  def _of(self, *ways: str):
    for number, how in enumerate(self.how):
      if how in ways:
        yield number, self.refs[number], self.scratches[number]

  def _gathered(self):
    for number, ref, scratch in self._of("gathered"):
      yield number, Gathering(ref, *scratch)

  def _place(self, number: int):
    """Returns (number, index) of this step's tile in a gathered gradient."""
    operand, plan = self.plan.operands[number], self.plan
    b, n, i, j = self.at
    batch, head = operand.line(b, n)
    tiles = plan.queries // plan.block_q, plan.keys // plan.block_k
    tile = ((batch * operand.heads + head) * tiles[0] + i) * tiles[1] + j
    rows = pl.ds(pl.multiple_of(i * plan.block_q, LANES), plan.block_q)
    columns = pl.ds(pl.multiple_of(j * plan.block_k, LANES), plan.block_k)
    return tile, (batch, head, rows, columns)

  def start(self, head, group, batch, grid) -> None:
    """Zeroes the sums that begin with a head's list, group, batch entry or the grid."""
    for _, _, columns in self._of("column"):
      _clear(head, columns)
    for _, ref, _ in self._of("line"):
      _clear(group, ref)
    for number, ref, _ in self._of("held"):
      _clear(batch if self.plan.operands[number].batches > 1 else grid, ref)
    for _, gathering in self._gathered():
      pl.when(group)(gathering.begin)

  def fetch(self) -> None:
    """Starts to read this step's tiles of gathered gradients."""
    self.arrived = {}
    for number, gathering in self._gathered():
      gathering.fetch(*self._place(number))

  def arrive(self) -> None:
    """Waits for this step's tiles of gathered gradients."""
    for number, _ in self._gathered():
      self._arrived(number)

  def _arrived(self, number: int):
    if number not in self.arrived:
      gathering = Gathering(self.refs[number], *self.scratches[number])
      self.arrived[number] = gathering.arrived(self._place(number)[1])
    return self.arrived[number]

  def add(self, part: Part, member, number: int, tile: jax.Array) -> None:
    """Adds a part's slope to the gradient of operand `number`."""
    ref = self.refs[number]
    match self.how[number]:
      case "own":
        ref[part.rows, part.columns] = tile.T
      case "held":
        _, (_, head, _, _) = self._place(number)
        plan = part.plan
        rows = pl.multiple_of(part.i * plan.block_q + part.row, LANES)
        columns = pl.multiple_of(part.j * plan.block_k + part.column, LANES)
        at = head, pl.ds(rows, plan.inner_q), pl.ds(columns, plan.inner_k)
        ref[at] += tile.T
      case "gathered":
        self._arrived(number)[part.rows, part.columns] += tile.T
      case "column":
        self.scratches[number][part.columns, :] += sum(
          tile[:, lane : lane + LANES] for lane in range(0, tile.shape[1], LANES)
        )
      case _:
        ref[member, part.i, :, part.rows] += tile.sum(axis=0, keepdims=True)

  def put_back(self) -> None:
    """Starts to write this step's tiles back."""
    self.arrive()
    for number, gathering in self._gathered():
      gathering.put_back(*self._place(number))

  def finish(self, head, group, unseen) -> None:
    """Writes columns, zeroes cells that an empty list points to, awaits all copies."""
    for _, ref, columns in self._of("column"):
      _reduce(head, ref, columns)
    for _, ref, _ in self._of("own"):
      _clear(unseen, ref)
    for number, gathering in self._gathered():
      pl.when(group)(functools.partial(gathering.settle, self._place(number)[1]))


def _clear(when, ref):
  @pl.when(when)
  def _():
    ref[...] = jnp.zeros_like(ref)


def _reduce(when, ref, columns):
  @pl.when(when)
  def _():
    ref[...] = columns[...].T.sum(axis=0, keepdims=True)
