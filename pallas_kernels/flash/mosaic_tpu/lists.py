"""Block lists of long sequences in a TPU's small scalar memory (SMEM).

If the lists of the whole batch are too long, several kernel calls each take a part of
the batch. If those of one batch entry are, a block of the schedule is several tiles.
"""

import math
from collections.abc import Callable

import jax

from attnjax.core import masks
from attnjax.core.programs import tested
from attnjax.core.scores import Scores

# Bytes of SMEM for block lists.
ROOM = 512 << 10


def taken(index, *, batches: int | None = None) -> int:
  """Returns the bytes of an index (R_b, R_n, lines, length) with its counts."""
  lead = index.shape[0] if batches is None else min(batches, index.shape[0])
  return 4 * lead * math.prod(index.shape[1:3]) * (index.shape[3] + 2)


def blocks(tile, scores: Scores, shape, which: str) -> tuple[int, int]:
  """Returns (block_q, block_k) in whole tiles that make the block lists short enough.

  Args:
    tile: (block_q, block_k) of a tile.
    scores: Scores with the mask that is to be scheduled.
    shape: (B, N, T, S).
    which: the schedule's lists that the kernel reads, "index" or "index_t".

  Raises:
    NotImplementedError: if no blocks make the lists short enough.
  """
  block_q, block_k = tile
  while _taken((block_q, block_k), scores, shape, which) > ROOM:
    # The side that has more blocks takes larger ones.
    counts = -(-shape[2] // block_q), -(-shape[3] // block_k)
    block_q, block_k = (
      (block_q, 2 * block_k) if counts[1] > counts[0] else (2 * block_q, block_k)
    )
    own = (tile, (block_q, block_k))
    parts = {len(tested(scores.mask, [one]).conjuncts()) for one in own}
    if max(counts) == 1 or len(parts) > 1:
      raise NotImplementedError(
        f"block lists of (B, N, T, S) = {shape} in blocks {tile} take more than {ROOM}"
        " bytes of scalar memory for one batch entry"
      )
  return block_q, block_k


def _taken(block, scores, shape, which) -> int:
  queries, keys = (-(-length // size) for length, size in zip(shape[2:], block))
  if 12 * shape[1] * queries * keys <= ROOM:
    return 0

  def schedule():
    return masks.schedule(scores.mask, shape, *block, *scores.begins())

  return taken(getattr(jax.eval_shape(schedule), which), batches=1)


def in_turn(function: Callable, arrays, program, schedule, index):
  """Calls function(arrays, program, schedule), by parts of the batch for long lists.

  Args:
    function: returns (arrays of the batch, gradients of the operands or ()).
    arrays: arrays (B, ...); entries may be None after the first.
    program: the scores' program.
    schedule: the blocks that the mask touches.
    index: the schedule's lists that the kernel reads.
  """
  B = arrays[0].shape[0]
  if taken(index) <= ROOM or index.shape[0] == 1:
    return function(arrays, program, schedule)
  size = next(
    (n for n in range(B - 1, 0, -1) if B % n == 0 and taken(index, batches=n) <= ROOM),
    1,
  )
  whole, tree = jax.tree.flatten((arrays, program, schedule))
  apart = [x.shape[0] == B for x in whole]

  def part(own):
    own = iter(own)
    given = [next(own) if a else x for a, x in zip(apart, whole)]
    return function(*jax.tree.unflatten(tree, given))

  split = [
    jax.numpy.asarray(x).reshape(B // size, size, *x.shape[1:])
    for x, a in zip(whole, apart)
    if a
  ]
  found, slopes = jax.lax.map(part, split)
  found = tuple(x.reshape(B, *x.shape[2:]) for x in found)
  return found, tuple(
    x if x is None else x.reshape(B, *x.shape[2:]) if o.shape[0] == B else x.sum(axis=0)
    for x, o in zip(slopes, program.operands)
  )
