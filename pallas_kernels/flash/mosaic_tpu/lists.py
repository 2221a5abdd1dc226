"""How long sequences' block lists fit a TPU's scalar memory.

Lists of all batch entries that would be too long are read by one kernel call after
another. Where those of one are, a schedule has blocks of several tiles.
"""

import math
from collections.abc import Callable

import jax

from attnjax.core import masks
from attnjax.core.programs import tested
from attnjax.core.scores import Scores

# Bytes of scalar memory for block lists.
ROOM = 512 << 10


def taken(index, *, batches: int | None = None) -> int:
  """Bytes of lists of an index (R_b, R_n, lines, length), counts among them."""
  lead = index.shape[0] if batches is None else min(batches, index.shape[0])
  return 4 * lead * math.prod(index.shape[1:3]) * (index.shape[3] + 2)


def blocks(tile, scores: Scores, shape, which: str) -> tuple[int, int]:
  """(block_q, block_k) of a schedule, of whole tiles, whose lists are short enough.

  Args:
    tile: (block_q, block_k) of a tile.
    scores: with the mask that is to be scheduled.
    shape: (B, N, T, S).
    which: the lists that are read, "index" or "index_t".

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
  """function(arrays, program, schedule), in parts of the batch if the lists demand it.

  Args:
    function: to (arrays of the batch, gradients of the operands or ()).
    arrays: (B, ...), or None.
    program: of scores.
    schedule: of blocks.
    index: of the schedule's lists that are read.
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
