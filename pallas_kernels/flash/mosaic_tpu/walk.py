"""The order in which the grid of a TPU kernel visits the tiles of block lists.

Where all lists may be full, the grid is (row, head of a group, tile of the row's list).
Where their sum is known to be much less, as for causal masks, it is one axis along all
concatenated lists, a walk, so that no step is spent past the end of a list: 20 steps a
head instead of 32 for 8,192 tokens in blocks of 1,024 x 2,048, 272 instead of 512 for
32,768. Bundles of a step that computes nothing, and those that a walk adds to each:
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

# A walk is worth its overhead if it saves more than this share of the remaining steps.
FORWARD, BACKWARD = 0.45, 0.3
# Steps that a walk must save to be worth computing it on the device, from data.
ENOUGH = 1024


class Flat(NamedTuple):
  """Block lists, flattened so that SMEM holds them without padding.

  Attributes:
    full, count: full blocks and all blocks of each list.
    index: the lists; in a walk, each step's column * 2^16 + its position in the list.
    place: in a walk, each step's row * 2^16 + its head within the group; else None.
  """

  full: Any
  count: Any
  index: Any
  place: Any = None


class Visit(NamedTuple):
  """A step of the grid.

  Attributes:
    n: query head.
    member: the head's index within the group.
    row, column: tiles along the axis that has the lists and along the listed one.
    line: index of the row's list.
    block: position, in the list, of the block that holds the column.
    first, last: whether the row's list begins or ends with this step.
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
  """The shape of block lists, and the grid that visits their blocks.

  Attributes:
    batches, heads: sizes of the lists' batch axis, 1 or B, and head axis, 1 or N.
    lines: lists of each batch entry and head.
    length: length of each list.
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
    """Returns the number of tiles along the axis that has the lists."""
    return self.lines * self.down

  @property
  def grid(self) -> tuple[int, int, int]:
    """Returns the last three axes of the grid."""
    if self.walk:
      return 1, 1, self.walk
    return self.rows, self.group, self.length * self.along

  @property
  def tiles(self) -> int:
    """Returns the most tiles that are visited for one head."""
    if self.walk:
      return self.walk // self.group
    return self.rows * self.length * self.along

  def visit(self, flat: Flat, b, h, row, member, m) -> Visit:
    """Returns the visit of grid step (row, member, m), group h of batch entry b."""
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
    """Returns the index of (b, n) among the lists, with `heads` lists a batch entry."""
    batch = b if self.batches > 1 else 0
    return batch * heads + n if heads > 1 else batch

  def _column(self, flat, line, m):
    """Returns the m-th tile of a list, clipped to the last, so that no copy is made."""
    if self.along > 1:
      m = jnp.clip(m, 0, jnp.maximum(flat.count[line] * self.along, 1) - 1)
    block = flat.index[line * self.length + _div(m, self.along)]
    if self.along == 1:
      return block
    return block * self.along + jax.lax.rem(m, self.along)


def of(index, walk, across=(1, 1), group: int = 1) -> Lists:
  """Returns the Lists of an index (R_b, R_n, lines, length).

  Args:
    index: block lists of a schedule.
    walk: walk of the schedule, or None.
    across: tiles (down, along) that a block holds, as in `Lists`.
    group: heads that each list is visited for, one after another.
  """
  steps = 0 if walk is None or across != (1, 1) else walk.shape[3]
  return Lists(*index.shape, *across, group, steps)


def flat(lists: Lists, index, full, count, walk) -> Flat:
  """Flattens the lists, or the walk, of a schedule."""
  one, other = (walk[:, :, 1], walk[:, :, 0]) if lists.walk else (index, None)
  return Flat(*(x if x is None else _flat(x) for x in (full, count, one, other)))


def _flat(x):
  return x.astype(jnp.int32).reshape(-1)


def prepared(schedule, q, k):
  """Adds walks for queries (B, T, N, H) and keys (B, S, K, H) to a schedule."""
  B, _, N, _ = q.shape
  of_queries = schedule.index, schedule.count, schedule.visits
  of_keys = schedule.index_t, schedule.count_t, schedule.visits_t
  return dataclasses.replace(
    schedule,
    walk=_walk(*of_queries, 1, B * N, FORWARD),
    walk_t=_walk(*of_keys, N // k.shape[2], B * N, BACKWARD),
  )


def _walk(index, count, visits: int, group: int, heads: int, price: float):
  """Returns a walk (R_b, 1 or K, 2, steps), packed as in `Flat`, or None if useless."""
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
