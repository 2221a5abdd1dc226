"""A part of a grid step's tile of scores, and a program's functions on the part."""

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
  """The static parameters of a kernel.

  Attributes:
    T, S: queries and keys without padding.
    queries, keys: queries and keys with padding.
    block_q, block_k, inner_q, inner_k: a grid step's tile, and its parts.
    keys_down: tiles hold keys down the sublanes and queries along the lanes.
    scale: what q . k is multiplied by.
    lists: how the block lists are read.
    operands, score, seen, keep: the program's operands and functions.
    rows: the operand with each row's query index, or -1 if they are consecutive.
    exact: float32 products are not rounded to bfloat16.
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
    """Returns whether partial blocks differ from full ones."""
    return self.seen is not None or self.S != self.keys

  @property
  def raw(self) -> bool:
    """Returns whether products stay unscaled: the scale is an exact power of two."""
    fraction, power = math.frexp(self.scale)
    return self.score is None and fraction == 0.5 and abs(power) < 32

  @property
  def unit(self) -> float:
    """Returns the factor from the kernel's scores to scaled scores."""
    return self.scale if self.raw else 1.0

  def power(self, difference) -> jax.Array:
    """Computes the exponential of a difference of scores.

    Only differences are scaled: scaling a score first would round it, by more than 1
    if it is large.
    """
    return jnp.exp2(difference * (self.unit * LOG2E))

  def parts(self):
    """Returns (first query, first key) of each part, in order of computation."""
    return [
      (row, column)
      for column in range(0, self.block_k, self.inner_k)
      for row in range(0, self.block_q, self.inner_q)
    ]

  def product(self, a, b, left: int, right: int) -> jax.Array:
    """Contracts axis `left` of a with axis `right` of b in float32."""
    return jax.lax.dot_general(
      a,
      b,
      (((left,), (right,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST if self.exact else None,
      preferred_element_type=jnp.float32,
    )


@dataclasses.dataclass(frozen=True)
class Part:
  """One part of a grid step's tile, and the operands' blocks in fast memory.

  Attributes:
    given: each operand's block.
    spread: columns of each operand that runs down the sublanes; None for the others.
    b, n, i, j: batch entry, query head, query tile, key tile.
    row, column: first query and key of the part within the tile.
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
    """Returns the slice of the part's queries within the tile."""
    return pl.ds(self.row, self.plan.inner_q)

  @property
  def columns(self):
    """Returns the slice of the part's keys within the tile."""
    return pl.ds(self.column, self.plan.inner_k)

  @property
  def shape(self) -> tuple[int, int]:
    """Returns the shape of the part's scores."""
    shape = self.plan.inner_q, self.plan.inner_k
    return shape[::-1] if self.plan.keys_down else shape

  def queries(self) -> jax.Array:
    """Returns the query index of each score."""
    return self._places() if self.plan.rows < 0 else self.tile(self.plan.rows)

  def keys(self) -> jax.Array:
    """Returns the key index of each score."""
    first = self.j * self.plan.block_k + self.column
    return first + self._iota(int(not self.plan.keys_down))

  def _places(self):
    """Returns the row among all rows of queries of each score."""
    first = self.i * self.plan.block_q + self.row
    return first + self._iota(int(self.plan.keys_down))

  def _iota(self, axis):
    return jax.lax.broadcasted_iota(jnp.int32, self.shape, axis)

  def evaluate(self, function, *first) -> jax.Array:
    """Evaluates a function of the program, with arguments `first`, on this part."""
    tiles = (self.tile(number) for number in function.operands)
    return function(*first, self.queries(), self.keys(), *tiles)

  def score(self, raw) -> jax.Array:
    """Computes scores from the products of queries and keys."""
    plan = self.plan
    if plan.score is None:
      return raw if plan.raw else raw * plan.scale
    return self.evaluate(plan.score, raw * plan.scale)

  def seen(self) -> jax.Array:
    """Returns the mask of the scores that count in a partial block."""
    plan = self.plan
    inside = self.keys() < plan.S if plan.S != plan.keys else None
    if plan.seen is None:
      assert inside is not None
      return inside
    seen = jnp.broadcast_to(self.evaluate(plan.seen), self.shape)
    if plan.T != plan.queries:  # Padding must not see what nobody else sees.
      seen &= self._places() < plan.T
    return seen if inside is None else seen & inside

  def tile(self, number: int) -> jax.Array:
    """Reads an operand on this part: a scalar, a line or a tile."""
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
  """Broadcasts operands along lanes into the columns of those that have them."""
  for ref, column in zip(given, columns, strict=True):
    if column is not None:
      column[...] = operands.spread(ref[...])


def plan(program, given, tile, schedule, q, k, scale, keys_down=False) -> Plan:
  """Returns the static parameters of a kernel.

  Args:
    program: the scores' program.
    given: the program's operands, folded if the queries are.
    tile: the kernel's Tile.
    schedule: blocks of whole tiles.
    q: (B, T, N, H), folded if there are few queries.
    k: (B, S, K, H).
    scale: what q . k is multiplied by.
    keys_down: as in `Plan`.
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
