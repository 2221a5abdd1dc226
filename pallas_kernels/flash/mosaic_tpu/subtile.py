"""A part of a grid step's tile of scores, and a program's functions on it."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu import bounds, layout, operands, walk

LOG2E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a kernel is compiled for.

  Attributes:
    T, S: queries and keys; those at T or S and after are padding.
    queries, keys: with their padding.
    block_q, block_k, inner_q, inner_k: a grid step's tile and the parts it is done in.
    keys_down: tiles hold keys down the sublanes and queries along the lanes.
    scale: what q . k is multiplied by.
    lists: how to read the block lists.
    operands, score, seen, keep: of the program.
    rows: the operand that holds each row's query number, or -1: they follow each other.
    exact: products of float32 numbers are not rounded to bfloat16.
    bounded: no score is so large that its exponential overflows or vanishes.
  """

  T: int
  S: int
  queries: int
  keys: int
  block_q: int
  block_k: int
  inner_q: int
  inner_k: int
  keys_down: bool
  scale: float
  lists: walk.Lists
  operands: tuple[operands.Operand, ...]
  score: Any
  seen: Any
  keep: Any
  rows: int
  exact: bool
  bounded: bool

  @property
  def masks(self) -> bool:
    """Whether partial blocks differ from full ones."""
    return self.seen is not None or self.S != self.keys

  @property
  def raw(self) -> bool:
    """Whether products stay as they are: their scale, a power of two, is exact."""
    fraction, power = math.frexp(self.scale)
    return self.score is None and fraction == 0.5 and abs(power) < 32

  @property
  def unit(self) -> float:
    """What a score of the kernel is multiplied by for natural units."""
    return self.scale if self.raw else 1.0

  def power(self, difference) -> jax.Array:
    """The exponential of a difference of scores.

    Only differences are scaled: a score that is scaled first is rounded, by more than 1
    if it is large.
    """
    return jnp.exp2(difference * (self.unit * LOG2E))

  def parts(self):
    """The first query and key of each part, in the order that they are done in."""
    return [
      (row, column)
      for column in range(0, self.block_k, self.inner_k)
      for row in range(0, self.block_q, self.inner_q)
    ]

  def product(self, a, b, left: int, right: int) -> jax.Array:
    """Products in float32, summed over axis `left` of a and `right` of b."""
    return jax.lax.dot_general(
      a,
      b,
      (((left,), (right,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST if self.exact else None,
      preferred_element_type=jnp.float32,
    )


@dataclasses.dataclass(frozen=True)
class Part:
  """One part: where it lies, and the operands' blocks in fast memory.

  Attributes:
    given: each operand's block.
    spread: of the operands that run down the sublanes, their columns; else None.
    b, n, i, j: batch entry, query head, query block, key block.
    row, column: its first query and key within the block.
  """

  plan: Plan
  given: tuple
  spread: tuple
  b: Any
  n: Any
  i: Any
  j: Any
  row: int
  column: int

  @property
  def rows(self):
    """Its queries within the block."""
    return pl.ds(self.row, self.plan.inner_q)

  @property
  def columns(self):
    """Its keys within the block."""
    return pl.ds(self.column, self.plan.inner_k)

  @property
  def shape(self) -> tuple[int, int]:
    """Of its tile of scores."""
    shape = self.plan.inner_q, self.plan.inner_k
    return shape[::-1] if self.plan.keys_down else shape

  def queries(self) -> jax.Array:
    """The query number of each score."""
    if self.plan.rows >= 0:
      return self.tile(self.plan.rows)
    first = self.i * self.plan.block_q + self.row
    return first + self._iota(int(self.plan.keys_down))

  def keys(self) -> jax.Array:
    """The key number of each score."""
    first = self.j * self.plan.block_k + self.column
    return first + self._iota(int(not self.plan.keys_down))

  def _iota(self, axis):
    return jax.lax.broadcasted_iota(jnp.int32, self.shape, axis)

  def evaluate(self, function, *first) -> jax.Array:
    """A function of the program on this part, after its first arguments."""
    tiles = (self.tile(number) for number in function.operands)
    return function(*first, self.queries(), self.keys(), *tiles)

  def score(self, raw) -> jax.Array:
    """Scores of products of queries and keys."""
    plan = self.plan
    if plan.score is None:
      return raw if plan.raw else raw * plan.scale
    return self.evaluate(plan.score, raw * plan.scale)

  def seen(self) -> jax.Array:
    """Which scores of a partial block count."""
    plan = self.plan
    inside = self.keys() < plan.S if plan.S != plan.keys else None
    if plan.seen is None:
      assert inside is not None
      return inside
    seen = jnp.broadcast_to(self.evaluate(plan.seen), self.shape)
    if plan.T != plan.queries:  # Padding must not see what nobody else sees.
      seen &= self.queries() < plan.T
    return seen if inside is None else seen & inside

  def tile(self, number: int) -> jax.Array:
    """An operand on this part: a scalar, a line or a tile."""
    operand, ref = self.plan.operands[number], self.given[number]
    down = self.plan.keys_down
    match operand.kind:
      case "scalar":
        tile = operands.scalar(ref, operand, self.b, self.n)
      case "row" if not down:
        tile = operands.across(self.spread[number][self.rows, :], self.plan.inner_k)
      case "row":
        tile = ref[:, self.rows]
      case "column" if down:
        tile = operands.across(self.spread[number][self.columns, :], self.plan.inner_q)
      case "column":
        tile = ref[:, self.columns]
      case _:
        tile = ref[self.rows, self.columns].astype(operand.dtype)
        tile = tile.T if down else tile
    return tile.astype(operand.dtype)


def spread(given: tuple, columns: tuple) -> None:
  """Fills the columns of the operands that have them."""
  for ref, column in zip(given, columns, strict=True):
    if column is not None:
      column[...] = operands.spread(ref[...])


def plan(program, given, tile, schedule, q, k, scale, keys_down=False) -> Plan:
  """The plan of a kernel.

  Args:
    program: of scores.
    given: its operands, as the kernel takes them.
    tile: how the work is cut.
    schedule: blocks of whole tiles.
    q: (B, T, N, H), as the kernel takes it.
    k: (B, S, K, H).
    scale: of their products.
    keys_down: as in Plan.
  """
  T, S = q.shape[1], k.shape[1]
  across = schedule.block_q // tile.block_q, schedule.block_k // tile.block_k
  if keys_down:
    group = q.shape[2] // k.shape[2]
    lists = walk.of(schedule.index_t, schedule.walk_t, across[::-1], group)
    queries = layout.ceil_to(T, schedule.block_q)
    keys = lists.lines * schedule.block_k
  else:
    lists = walk.of(schedule.index, schedule.walk, across)
    if lists.rows == 1:  # Fewer queries than a block take fewer rows.
      least = 16 if T < operands.LANES else operands.LANES
      tile = tile.of_rows(layout.ceil_to(T, least))
    queries = lists.rows * tile.block_q
    keys = layout.ceil_to(S, schedule.block_k)
  return Plan(
    T=T,
    S=S,
    queries=queries,
    keys=keys,
    block_q=tile.block_q,
    block_k=tile.block_k,
    inner_q=tile.inner_q,
    inner_k=tile.inner_k,
    keys_down=keys_down,
    scale=scale,
    lists=lists,
    operands=operands.describe(given, program.score, program.keep),
    score=program.score,
    seen=program.seen,
    keep=program.keep,
    rows=-1,
    exact=q.dtype != jnp.bfloat16,
    bounded=bounds.bounded(program, T, S),
  )
