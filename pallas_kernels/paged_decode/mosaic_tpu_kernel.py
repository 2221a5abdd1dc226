"""The TPU kernel: a grid step reads the pages of a row, and multiplies all heads.

Keys are rows (Z K, H), those of a token's heads next to each other, so that a page is
one slice. All query heads are multiplied by all rows, and what belongs to another head
is masked: the matrix unit takes a row of keys for one query or for a hundred in equal
time, and no row is moved. So a NaN or an infinity among the keys and values that a row
reads may reach all its heads.

While a tile of pages is multiplied the next one is read, of the next row at the end of
a row.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.paged_decode.plan import LANES, Plan


def paged(plan, starts, counts, visited, least, owners, columns, q, k, v, *rest):
  """Computes out (rows, V), lse (rows, LANES) and scores of a row of the batch."""
  out, lse, *rest = rest
  logits = rest.pop(0) if plan.scores else None
  keys, values, arrived, turn, heads, *written = rest
  b, blocks = pl.program_id(0), _blocks(plan, visited, pl.program_id(0))
  fetch = _Fetch(plan, (starts, counts, least), (k, v), (keys, values), arrived)

  @pl.when(b == 0)
  def _():
    turn[0], turn[1] = 0, 1
    fetch.start(0, 0, 0)

  first = turn[0]

  def step(j, state):
    slot = (first + j) & 1

    @pl.when(j + 1 < blocks)
    def _():
      fetch.start(b, j + 1, 1 - slot)

    @pl.when((j + 1 == blocks) & (b + 1 < pl.num_programs(0)))
    def _():
      fetch.start(b + 1, 0, 1 - slot)

    fetch.wait(b, j, slot)
    _mark(plan, fetch, columns, heads, turn, b, j, slot)
    own = jnp.concatenate([owners[...]] * (plan.columns // LANES), axis=1)
    score = _product(q[...], keys[slot], 1) * plan.scale
    score = jnp.where(own == heads[...], score, -jnp.inf)
    copies = _write(plan, score, logits, written, b, j)
    top, total, acc = state
    new = jnp.maximum(top, score.max(axis=1, keepdims=True))
    pivot = jnp.where(new == -jnp.inf, 0.0, new)
    weight, decay = jnp.exp(score - pivot), jnp.exp(top - pivot)
    total = total * decay + weight.sum(axis=1, keepdims=True)
    acc = acc * decay + _product(weight.astype(values.dtype), values[slot], 0)
    for copy in copies:
      copy.wait()
    return new, total, acc

  zero = jnp.zeros((plan.rows, 1), jnp.float32)
  acc = jnp.zeros((plan.rows, values.shape[2]), jnp.float32)
  top, total, acc = jax.lax.fori_loop(0, blocks, step, (zero - jnp.inf, zero, acc))
  turn[0] = (first + blocks) & 1
  some = jnp.where(total > 0, total, 1.0)
  out[...] = (acc / some).astype(out.dtype)
  found = jnp.where(total > 0, jnp.log(some) + top, -jnp.inf)
  lse[...] = jnp.broadcast_to(found, lse.shape)


def _blocks(plan, visited, b):
  """Returns the tiles of a row that are read, at least one."""
  return jnp.maximum(1, pl.cdiv(visited[b], plan.pages))


def _mark(plan, fetch, columns, heads, turn, b, j, slot):
  """Sets the head of each column, -1 where no token is, and clears such values."""
  whole = fetch.whole(b, j)

  @pl.when(whole & (turn[1] == 1))
  def _():
    heads[...] = columns[0:1, :]
    turn[1] = 0

  @pl.when(~whole)
  def _():
    def visit(p, limit):
      count, rows = fetch.count(b, j, p), fetch.rows(p)
      value = fetch.buffers[1][slot, rows]
      place = jax.lax.broadcasted_iota(jnp.int32, value.shape, 0)
      # Of unread memory, in which there may be a NaN.
      clean = jnp.where(place < count * plan.K, value, jnp.zeros_like(value))
      fetch.buffers[1][slot, rows] = clean
      return jnp.where(columns[2:3, :] == p, count, limit)

    limit = jnp.zeros((1, plan.columns), jnp.int32)
    limit = jax.lax.fori_loop(0, plan.pages, visit, limit)
    heads[...] = jnp.where(columns[1:2, :] < limit, columns[0:1, :], -1)
    turn[1] = 1


def _write(plan, score, logits, written, b, j):
  """Starts to write the scores of a tile, a row for each query head of a group."""
  if not plan.scores:
    return ()
  buffer, done = written
  parts = [score[h * plan.group : (h + 1) * plan.group] for h in range(plan.K)]
  own = parts[0]
  for part in parts[1:]:  # a column belongs to one key head, others have -inf there
    own = jnp.maximum(own, part)
  buffer[...] = own
  copy = pltpu.make_async_copy(buffer, logits.at[b, j], done)
  copy.start()
  return (copy,)


@dataclasses.dataclass(frozen=True)
class _Fetch:
  """The copies of tiles of pages into fast memory."""

  plan: Plan
  lists: tuple
  arrays: tuple
  buffers: tuple
  arrived: jax.Array

  def count(self, b, j, p):
    """Returns the tokens of page p of tile j."""
    return self.lists[1][(b * self.plan.blocks + j) * self.plan.pages + p]

  def whole(self, b, j):
    """Returns whether all pages of tile j are full."""
    return self.lists[2][b * self.plan.blocks + j] == self.plan.page

  def rows(self, p):
    """Returns the rows of page p in a buffer."""
    height = self.plan.height
    return pl.ds(pl.multiple_of(p * height, height), height)

  def _copies(self, b, j, p, slot):
    plan = self.plan
    first = self.lists[0][(b * plan.blocks + j) * plan.pages + p]
    first = pl.multiple_of(first, 32 // self.arrays[0].dtype.itemsize)
    return [
      pltpu.make_async_copy(
        array.at[pl.ds(first, plan.height)],
        buffer.at[slot, self.rows(p)],
        self.arrived.at[slot, number],
      )
      for number, (array, buffer) in enumerate(zip(self.arrays, self.buffers))
    ]

  def start(self, b, j, slot):
    """Starts to read the pages of a tile that have tokens."""

    @pl.when(self.whole(b, j))
    def _():
      for p in range(self.plan.pages):
        for copy in self._copies(b, j, p, slot):
          copy.start()

    @pl.when(~self.whole(b, j))
    def _():
      def visit(p, _):
        @pl.when(self.count(b, j, p) > 0)
        def _():
          for copy in self._copies(b, j, p, slot):
            copy.start()

      jax.lax.fori_loop(0, self.plan.pages, visit, None)

  def wait(self, b, j, slot):
    """Waits for what `start` began."""

    @pl.when(self.whole(b, j))
    def _():  # a semaphore counts bytes: one wait is for all pages
      for number, buffer in enumerate(self.buffers):
        own = buffer.at[slot]
        pltpu.make_async_copy(own, own, self.arrived.at[slot, number]).wait()

    @pl.when(~self.whole(b, j))
    def _():
      def visit(p, _):
        @pl.when(self.count(b, j, p) > 0)
        def _():
          for copy in self._copies(b, j, p, slot):
            copy.wait()

      jax.lax.fori_loop(0, self.plan.pages, visit, None)


def _product(left, right, axis: int):
  """Computes left right, contracting the last axis of left with `axis` of right."""
  exact = left.dtype == jnp.float32
  return jax.lax.dot_general(
    left,
    right,
    (((1,), (axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else None,
    preferred_element_type=jnp.float32,
  )
