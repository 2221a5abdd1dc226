"""Block lists: the key blocks that each query block visits, without a T x S matrix.

A block is empty, partial or full. Interval arithmetic on the element test tells which,
from the extremes of positions and operands in the block: in O(T + S + blocks) for any
mask. Static masks are then refined: blocks that are partial by their bounds are tested
element by element.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from attnjax.core import interval_arithmetic, scalar_functions
from attnjax.core.devices import at_once
from attnjax.core.masks.algebra import And, Mask
from attnjax.core.masks.blocks import Blocks
from attnjax.core.masks.entries import EMPTY, FULL, PARTIAL, lengths, lists
from attnjax.core.masks.positional import Causal, Window

Kinds = Int[Array | np.ndarray, "Rb Rn nq nk"]
_REFINED = 2**22  # elements that are tested one by one, at most


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
  """Lists of blocks, of R_b = 1 or B batch entries and R_n = 1 or N heads.

  Attributes:
    index: int32, (R_b, R_n, query blocks, M): key blocks of each query block; the
      first `full` ones need no mask, those up to `count` do, the rest repeat the last.
    full: int32, (R_b, R_n, query blocks).
    count: int32, (R_b, R_n, query blocks).
    index_t: int32, (R_b, R_n, key blocks, M_t): query blocks of each key block.
    full_t: int32, (R_b, R_n, key blocks).
    count_t: int32, (R_b, R_n, key blocks).
    block_q: queries of a block.
    block_k: keys of a block.
    visits: blocks that the lists of a batch entry and head name together, at most; an
      empty list counts as one; 0 if unknown.
    visits_t: as `visits`, for the lists of key blocks.
    walk: data that a form adds to the lists, or None.
    walk_t: as `walk`, for the lists of key blocks.
  """

  index: Any
  full: Any
  count: Any
  index_t: Any
  full_t: Any
  count_t: Any
  block_q: int = dataclasses.field(metadata={"static": True})
  block_k: int = dataclasses.field(metadata={"static": True})
  visits: int = dataclasses.field(default=0, metadata={"static": True})
  visits_t: int = dataclasses.field(default=0, metadata={"static": True})
  walk: Any = None
  walk_t: Any = None

  def density(self) -> Any:
    """Returns the fraction of all blocks that is visited."""
    visited = self.count.sum(dtype=np.float32)
    return visited / (self.count.size * self.count_t.shape[-1])

  def spans(self) -> tuple[Any, Any]:
    """Returns the least key block of each query block, and the greatest plus 1."""
    low, high = self.index.min(axis=-1), self.index.max(axis=-1) + 1
    some = self.count > 0
    return low * some, high * some


def schedule(
  mask: Mask,
  shape: tuple[int, int, int, int],
  block_q: int,
  block_k: int,
  query_positions: Any = 0,
  key_positions: Any = 0,
  *,
  refine: bool = True,
) -> Schedule:
  """Returns the block lists of a mask.

  Args:
    mask: of any kind.
    shape: (B, N, T, S).
    block_q: queries of a block.
    block_k: keys of a block.
    query_positions: int, (B|1, T); or the first of consecutive positions.
    key_positions: int, (B|1, S); or the first of consecutive positions.
    refine: whether static masks are tested element by element where that is cheap.
  """
  given = shape, block_q, block_k, query_positions, key_positions
  kind, limit = kinds(mask, *given, refine=refine), None
  if isinstance(kind, jax.Array):
    limit = _static_kinds(mask, *given, refine)
  if limit is not None:  # bounds of traced parts may be wider than these
    kind = jnp.where(limit == EMPTY, EMPTY, kind).astype(np.int8)
  _, listed = scheduled(mask, block_q, block_k)
  most = [part.most(block_q, block_k) for part in listed]
  (most, visits), (most_t, visits_t) = lengths(kind, limit, most)
  forward, backward = lists(kind, most), lists(kind.swapaxes(2, 3), most_t)
  return Schedule(*forward, *backward, block_q, block_k, visits, visits_t)


def kinds(
  mask, shape, block_q, block_k, query_positions=0, key_positions=0, *, refine
) -> Kinds:
  """Returns EMPTY, PARTIAL or FULL for each block; EMPTY and FULL are certain."""
  mask.check(shape)
  rest, listed = scheduled(mask, block_q, block_k)
  problem = rest, shape, block_q, block_k, refine, query_positions, key_positions
  numbers = isinstance(query_positions, int) and isinstance(key_positions, int)
  kind: Any = (_cached if numbers and _hashable(rest) else _kinds)(*problem)
  for blocks in listed:
    given = blocks.kinds(block_q, block_k, (kind.shape[2], kind.shape[3]))
    kind = jnp.where(given, kind, EMPTY).astype(np.int8)
  return kind


def scheduled(mask: Mask, block_q: int, block_k: int) -> tuple[Mask, list[Blocks]]:
  """Splits a conjunction into (the part to be tested, the parts that lists express)."""
  parts = mask.conjuncts()
  listed = [p for p in parts if isinstance(p, Blocks) and p.divides(block_q, block_k)]
  rest = tuple(p for p in parts if not any(p is one for one in listed))
  return rest[0] if len(rest) == 1 else And(rest), listed


def _hashable(mask) -> bool:
  """Returns whether a mask holds numbers only."""
  return all(isinstance(leaf, int) for leaf in jax.tree.leaves(mask))


@functools.lru_cache(maxsize=256)
def _cached(*problem):
  kind = np.array(_kinds(*problem))
  kind.setflags(write=False)
  return kind


def _kinds(mask, shape, block_q, block_k, refine, query, key) -> Any:
  T, S = shape[2:]
  query = query + np.arange(T)[None] if isinstance(query, int) else query
  key = key + np.arange(S)[None] if isinstance(key, int) else key
  arrays = [query[:, None, :, None], key[:, None, None, :], *mask.operands()]
  static = not any(isinstance(a, jax.Array) for a in arrays)
  xp: Any = np if static else jnp
  test = seen_test(mask)
  nq, nk = -(-T // block_q), -(-S // block_k)
  if not static and nq == nk == 1:  # the element test alone is less work
    return np.full((1, 1, 1, 1), PARTIAL, np.int8)
  given: list[Any] = []
  if test is None:
    kind: Any = xp.full((1, 1, nq, nk), FULL, np.int8)
  else:
    given = [arrays[0], arrays[1], *(arrays[2 + i] for i in test.operands)]
    pairs = [_extremes(a, block_q, block_k, xp) for a in given]
    always, ever = interval_arithmetic.bounds(test.jaxpr, pairs, xp)
    kind = xp.asarray(always, np.int8) + xp.asarray(ever, np.int8)
    kind = xp.broadcast_to(kind, np.broadcast_shapes(kind.shape, (1, 1, nq, nk)))
  if S % block_k:
    tail = xp.arange(nk) == nk - 1
    kind = xp.where(tail & (kind == FULL), np.int8(PARTIAL), kind)
  if static and refine and not isinstance(mask, Causal | Window) and test is not None:
    kind = _refined(kind, given, test, (T, S), block_q, block_k)
  return kind.astype(np.int8)


def seen_test(mask: Mask) -> scalar_functions.Elementwise | None:
  """Returns the element test of positions q, k and operands; None if all is seen."""
  if not mask.conjuncts():
    return None
  dtypes = [jax.dtypes.canonicalize_dtype(a.dtype) for a in mask.operands()]
  return scalar_functions.elementwise(mask.seen, (np.int32, np.int32), dtypes)


def _extremes(array, block_q, block_k, xp):
  """Returns the least and the greatest element in each block, along T and S."""
  if array.dtype == bool:
    array = array.astype(np.int32)
  elif xp is np:
    array = np.asarray(array).astype(np.int64)
  low = high = xp.asarray(array)
  for axis, block in ((2, block_q), (3, block_k)):
    length = low.shape[axis]
    if length == 1:
      continue
    missing = -length % block
    pad = [(0, missing if a == axis else 0) for a in range(4)]
    split = (*low.shape[:axis], -1, block, *low.shape[axis + 1 :])
    low, high = (
      reduce(xp.pad(x, pad, mode="edge").reshape(split), axis=axis + 1)
      for reduce, x in ((xp.min, low), (xp.max, high))
    )
  return low, high


def _refined(kind, arrays, test, lengths, block_q, block_k):
  """Tests each partial block of a static mask by elements, if they are not too many."""
  places = np.argwhere(kind == PARTIAL)
  if len(places) * block_q * block_k > _REFINED or not len(places):
    return kind
  kind = np.array(kind)
  tested = jax.jit(test.__call__)
  with at_once():
    for b, n, i, j in places:
      rows = np.arange(i * block_q, min((i + 1) * block_q, lengths[0]))
      columns = np.arange(j * block_k, min((j + 1) * block_k, lengths[1]))
      tiles = [_cut(a, b, n, rows, columns) for a in arrays]
      seen = np.asarray(tested(*tiles))
      whole = seen.all() and len(columns) == block_k
      kind[b, n, i, j] = FULL if whole else PARTIAL if seen.any() else EMPTY
  return kind


def _cut(array, b, n, rows, columns):
  array = np.asarray(array)[min(b, array.shape[0] - 1), min(n, array.shape[1] - 1)]
  array = array[rows] if array.shape[0] > 1 else array
  array = array[:, columns] if array.shape[1] > 1 else array
  return array.astype(np.int32) if array.dtype == np.int64 else array


def _static_kinds(mask, shape, block_q, block_k, query, key, refine):
  """Returns the blocks' kinds by the static parts of a conjunction; None if none is."""
  rest, _ = scheduled(mask, block_q, block_k)
  fixed = tuple(part for part in rest.conjuncts() if _fixed(part))
  if not (fixed and _fixed(query) and _fixed(key)):
    return None
  part = fixed[0] if len(fixed) == 1 else And(fixed)
  known = kinds(part, shape, block_q, block_k, query, key, refine=refine)
  return None if isinstance(known, jax.Array) else known


def _fixed(tree) -> bool:
  """Returns whether all of a mask, or of positions, is known at trace time."""
  return not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
