"""The fused form: tokens in tiles, so that the kernels' blocks are boxes of the grid.

The dilation groups join the batch, and the tokens of each tile are contiguous
(arXiv:2504.16922, token permutation). Both ends of a window grow with the query, so a
tile of queries sees a box of tiles of keys, which `masks.schedule` finds: as many as
`simulate.visits` counts. The softmax engine does the rest.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.grids import neighborhood, permutation
from attnjax.core.masks import Mask
from attnjax.core.scores import Scores
from pallas_kernels import flash

# Tokens of a tile: a kernel's block is a tile, or 1/2, 1/4, ... of a tile.
TOKENS = {"pallas": 512, "triton": 128}
LEAST = 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Boxes(Mask):
  """Seen where the key's coordinate is in the query's interval on every axis.

  Attributes:
    low: int32, (axes, B | 1, T), the first coordinate that a query sees.
    high: int32, (axes, B | 1, T), one past the last coordinate.
    place: int32, (axes, S'), the coordinates of the first S' keys. All other keys are
      seen by every query whose intervals are not empty.
    extra: number of the other keys, S - S'.
  """

  low: Any
  high: Any
  place: Any
  extra: int = dataclasses.field(default=0, metadata={"static": True})

  def operands(self):
    """Returns each axis's ends and coordinates, and if needed which keys are extra."""
    xp = np if isinstance(self.place, np.ndarray) else jnp
    found = []
    for low, high, place in zip(self.low, self.high, self.place):
      place = xp.pad(place, (0, self.extra), mode="edge")
      found += [low[:, None, :, None], high[:, None, :, None], place[None, None, None]]
    if self.extra:
      number = self.place.shape[1]
      found.append((np.arange(number + self.extra) >= number)[None, None, None])
    return tuple(found)

  def seen(self, q, k, *operands):
    """Returns whether a key is inside on every axis, or an extra key."""
    del q, k
    inside = alive = True
    for low, high, place in zip(
      *(operands[i : 3 * len(self.low) : 3] for i in range(3))
    ):
      inside = (low <= place) & (place < high) & inside
      alive = (low < high) & alive
    if not self.extra:
      return inside
    return (inside & ~operands[-1]) | (alive & operands[-1])


def prepared(
  q, k, v, axes, *, extra_k, extra_v, segment_ids, scale, impl
) -> Callable[[], tuple]:
  """Returns what computes `neighborhood.attend`, its arguments checked, as (out, lse).

  Blocks are tiles of the grid, or halves of tiles again and again, which are boxes too.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
  """
  extra = 0 if extra_k is None else extra_k.shape[1]
  run = _grid if segment_ids is None else _packed
  sides = tile(q.shape[1:-2], axes, TOKENS[impl])
  (query, key, value), mask, back = run(q, k, v, axes, extra, segment_ids, sides)
  if extra_k is not None:
    groups = query.shape[0] // q.shape[0]
    key, value = (
      jnp.concatenate([x, jnp.repeat(more, groups, axis=0)], axis=1)
      for x, more in ((key, extra_k), (value, extra_v))
    )
  how = {"impl": impl, "tokens": math.prod(sides)}
  attend = flash.prepared(query, key, value, Scores(mask), **how)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  return lambda: tuple(map(back, attend(query, key, value, scale=scale)))


def tile(grid, axes, tokens: int) -> tuple[int, ...]:
  """Returns the tile's sides: powers of two, whose product is `tokens` or less.

  The product covers a smaller grid. Of all such boxes it takes the box whose tiles, as
  queries and as keys, visit the fewest tiles.
  """
  most = [1 << (-(-n // a.dilation) - 1).bit_length() for n, a in zip(grid, axes)]
  tokens = min(tokens, max(LEAST, math.prod(most)))
  # A grid that is smaller than LEAST is padded at its last axis.
  most[-1] = max(most[-1], tokens // math.prod(most[:-1]))
  lengths = ([2**i for i in range(side.bit_length())] for side in most)
  boxes = [s for s in itertools.product(*lengths) if math.prod(s) == tokens]

  def visited(sides):
    lines = zip(grid, axes, sides)
    return math.prod(neighborhood.visits(n, *a, query=s, key=s)[0] for n, a, s in lines)

  return min(boxes, key=visited)


def _grid(q, k, v, axes, extra, segment_ids, sides):
  """Returns the arrays in tiles, their mask, and the function that undoes the order."""
  del segment_ids
  grid, dilation = q.shape[1:-2], tuple(a.dilation for a in axes)
  mask = boxes(q.shape[0], grid, axes, sides, extra)

  def back(x):
    return permutation.unpermute(x, grid, sides, dilation)

  return [permutation.permute(x, sides, dilation) for x in (q, k, v)], mask, back


def boxes(B: int, grid, axes, sides: tuple[int, ...], extra: int = 0) -> Boxes:
  """Returns the mask of a grid whose tokens `tiles.permute` has put in tiles.

  Args:
    B: size of the batch, before the dilation groups join it.
    grid: number of tokens on each axis.
    axes: the windows.
    sides: of a tile.
    extra: number of keys after the grid's keys.
  """
  dilation = tuple(a.dilation for a in axes)
  counts = permutation.counts(grid, sides, dilation)
  lines = [np.arange(n * side) for n, side in zip(counts, sides)]
  place = _tiled(np.meshgrid(*lines, indexing="ij"), counts, sides)
  ends = []
  for groups in itertools.product(*map(range, dilation)):
    both = []
    for length, axis, line, side, group in zip(grid, axes, lines, sides, groups):
      size = -(-(length - group) // axis.dilation)
      # Padded queries, which are cut off, see what the last query sees, so that a
      # block may be full; a tile of padded queries only sees nothing.
      query = line.clip(None, size - 1)
      rule = axis.window, axis.stride, axis.causal
      low, high = neighborhood.bounds(query, size, *rule)
      both.append((low, np.where(line // side * side < size, high, low)))
    ends.append(
      [_tiled(np.meshgrid(*e, indexing="ij"), counts, sides) for e in zip(*both)]
    )
  low, high = (np.stack(e, axis=1).astype(np.int32) for e in zip(*ends))
  if all((x == x[:, :1]).all() for x in (low, high)):
    low, high = low[:, :1], high[:, :1]
  else:
    low, high = (np.tile(x, (1, B, 1)) for x in (low, high))
  return Boxes(low, high, place.astype(np.int32), extra)


def _tiled(arrays, counts, sides) -> np.ndarray:
  """Returns arrays of the padded grid, (axes, T) in the order of `tiles.permute`."""
  n = len(sides)
  split = tuple(itertools.chain(*zip(counts, sides)))
  order = [*range(0, 2 * n, 2), *range(1, 2 * n, 2)]
  return np.stack([x.reshape(split).transpose(order).ravel() for x in arrays])


def _packed(q, k, v, axes, extra, segment_ids, sides):
  """Returns the result of `_grid` for documents on one axis, each group contiguous."""
  del sides
  order, low, high = neighborhood.packed(segment_ids, *axes[0])
  place = jnp.arange(q.shape[1], dtype=jnp.int32)[None]
  low, high = (x.astype(jnp.int32)[None] for x in (low, high))
  mask = Boxes(low, high, place, extra)

  def back(x):
    return jax.vmap(jnp.take, (0, 0, None))(x, order.argsort(axis=1), 0)

  return [jax.vmap(jnp.take, (0, 0, None))(x, order, 0) for x in (q, k, v)], mask, back
