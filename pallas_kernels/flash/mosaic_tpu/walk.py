"""How the grid of a TPU kernel visits the tiles that block lists name.

Where all lists may be full, the grid is (row, head of a group, tile of the row's list).
Where their sum is known to be much less, as for causal masks, it is one axis along all
lists laid end to end, a walk, so that no step is spent behind the end of a list: 20
steps a head instead of 32 for 8,192 tokens in blocks of 1,024 x 2,048, 272 instead of
512 for 32,768. Bundles of a step that computes nothing, and what a walk adds to each:
                v5e forward 236 + 103, backward 515 + 138
                v6e forward 289 + 97, backward 576 + 147
A causal mask of 32,768 tokens so saves 1.2 % of the forward and 1.6 % of the backward
pass on v5e; one of 4,096 tokens would lose 0.3 % of the forward one.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.flash.mosaic_tpu.lists import ROOM

# The part of the steps left that must be saved to be worth what a walk adds to them.
FORWARD, BACKWARD = 0.45, 0.3
# Steps that must be saved to be worth the making of a walk from data, on the device.
ENOUGH = 1024


class Flat(NamedTuple):
  """Lists as scalar memory takes them without padding.

  Attributes:
    full, count: of each list.
    index: the lists; of a walk, for each step, its column * 2^16 + its number in the
      list.
    place: of a walk, for each step, its row * 2^16 + its head of the group; or None.
  """

  full: Any
  count: Any
  index: Any
  place: Any = None


class Visit(NamedTuple):
  """A step of the grid.

  Attributes:
    n: query head.
    member: its number in the group.
    row, column: tiles along the axis that has the lists and along the listed one.
    line: the number of its list.
    block: the number, in the list, of the block that the column lies in.
    first, last: whether the row's list begins or ends.
  """

  n: Any
  member: Any
  row: Any
  column: Any
  line: Any
  block: Any
  first: Any
  last: Any


@dataclasses.dataclass(frozen=True)
class Lists:
  """How to read block lists, and the grid that visits their blocks.

  Attributes:
    batches, heads: R of their batch and head axes, 1 or B and 1 or N.
    lines: lists a batch and head.
    length: of each list.
    down: tiles that a block holds along the axis that has the lists.
    along: tiles that a block holds along the axis that is listed.
    group: heads that each list is visited for, one after another.
    walk: steps of a walk for each batch entry and group, or 0: all lists are full.
  """

  batches: int
  heads: int
  lines: int
  length: int
  down: int = 1
  along: int = 1
  group: int = 1
  walk: int = 0

  @property
  def rows(self) -> int:
    """Tiles along the axis that has the lists."""
    return self.lines * self.down

  @property
  def grid(self) -> tuple[int, int, int]:
    """The last three axes of the grid."""
    if self.walk:
      return 1, 1, self.walk
    return self.rows, self.group, self.length * self.along

  @property
  def tiles(self) -> int:
    """Tiles that are visited for one head, at most."""
    if self.walk:
      return self.walk // self.group
    return self.rows * self.length * self.along

  def visit(self, flat: Flat, b, h, row, member, m) -> Visit:
    """Step (row, member, m) of the grid for group h of batch entry b."""
    column = end = None
    if self.walk:
      step = self._number(b, h, self.heads // self.group) * self.walk + m
      row, member = _halves(flat.place[step])
      column, m = _halves(flat.index[step])
    n = h * self.group + member
    line = self._number(b, n, self.heads) * self.lines + _div(row, self.down)
    if self.walk:
      end = jnp.maximum(flat.count[line], 1)
    else:
      column, end = self._column(flat, line, m), self.length * self.along
    block = _div(m, self.along)
    return Visit(n, member, row, column, line, block, m == 0, m == end - 1)

  def _number(self, b, n, heads: int):
    """Of the lists of head n of batch entry b, where `heads` differ."""
    batch = b if self.batches > 1 else 0
    return batch * heads + n if heads > 1 else batch

  def _column(self, flat, line, m):
    """The m-th tile of a list; past the last it is the last: nothing is fetched."""
    if self.along > 1:
      m = jnp.clip(m, 0, jnp.maximum(flat.count[line] * self.along, 1) - 1)
    block = flat.index[line * self.length + _div(m, self.along)]
    if self.along == 1:
      return block
    return block * self.along + jax.lax.rem(m, self.along)


def of(index, walk, across=(1, 1), group: int = 1) -> Lists:
  """How to read an index (R_b, R_n, lines, length).

  Args:
    index: of a schedule.
    walk: of the same, or None.
    across: tiles that a block holds (down, along), as `Lists` has them.
    group: heads that are visited one after another.
  """
  steps = 0 if walk is None or across != (1, 1) else walk.shape[3]
  return Lists(*index.shape, *across, group, steps)


def flat(lists: Lists, index, full, count, walk) -> Flat:
  """The lists of a schedule."""
  one, other = (walk[:, :, 1], walk[:, :, 0]) if lists.walk else (index, None)
  return Flat(*(x if x is None else _flat(x) for x in (full, count, one, other)))


def _flat(x):
  return x.astype(jnp.int32).reshape(-1)


def prepared(schedule, q, k):
  """A schedule with its walks for queries (B, T, N, H) and keys (B, S, K, H)."""
  B, _, N, _ = q.shape
  of_queries = schedule.index, schedule.count, schedule.visits
  of_keys = schedule.index_t, schedule.count_t, schedule.visits_t
  return dataclasses.replace(
    schedule,
    walk=_walk(*of_queries, 1, B * N, FORWARD),
    walk_t=_walk(*of_keys, N // k.shape[2], B * N, BACKWARD),
  )


def _walk(index, count, visits: int, group: int, heads: int, price: float):
  """(R_b, 1 or K, 2, steps), halves as in `Flat`, or None if it is not worth it."""
  batches, R, lines, length = index.shape
  parts, steps = max(R // group, 1), group * visits
  saved = lines * length - visits if visits else 0
  static = isinstance(count, np.ndarray)
  taken = 8 * batches * (parts * steps + R * lines)
  worth = saved > price * visits and (static or saved * heads >= ENOUGH)
  if not worth or taken > ROOM or max(lines, length) >= 1 << 15:
    return None
  xp = np if static else jnp
  # Row by row, the heads of its group in turn.
  index, count = (
    x.reshape(batches, parts, -1, lines, *x.shape[3:]).swapaxes(2, 3)
    for x in (index, count)
  )
  shape = batches, parts, lines, group
  own = xp.maximum(xp.broadcast_to(count, shape), 1).reshape(batches, parts, -1)
  last = xp.cumsum(own, axis=2, dtype=np.int32)
  step = xp.arange(steps, dtype=np.int32)
  line = (last[..., None, :-1] <= step[:, None]).sum(axis=3, dtype=np.int32)
  m = step - xp.take_along_axis(last - own, line, axis=2)
  index = index.reshape(batches, parts, -1)
  at = line // (group // (index.shape[2] // (lines * length))) * length
  at = at + xp.minimum(m, length - 1)
  column = xp.take_along_axis(index, at, axis=2)
  place = (line // group << 16) + line % group
  return xp.stack((place, (column << 16) + xp.minimum(m, 0xFFFF)), axis=2)


def _halves(packed):
  return packed >> 16, packed & 0xFFFF


def _div(x, size: int):
  return x if size == 1 else jax.lax.div(x, size)
