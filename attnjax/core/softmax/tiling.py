"""Tiles of scores, and the slices of queries, keys and operands that each reads.

A unit is the work of one iteration of the loop over heads: some key heads with all of
their query heads, or one key head with some of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.masks import Blocks, Intervals, Mask, Segments, Window
from attnjax.core.softmax.jvp import pad
from attnjax.core.softmax.score_gradient import score_and_pull

_NARROW = (Window, Segments, Blocks, Intervals)


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The size of a tile: `key_heads` x `query_heads` (of each) x rows x columns.

  Attributes:
    rows: queries.
    columns: keys.
    key_heads: 0 stands for as many heads as make `scores`.
    query_heads: all of a key head's, unless key_heads is 1.
    scores: of a tile, at most, if heads are not given.
  """

  rows: int
  columns: int
  key_heads: int = 0
  query_heads: int = 0
  scores: int = 2**19

  def fitted(self, N: int, K: int, apart: bool) -> "Tiles":
    """Returns the tiles with numbers of heads; 1 and 1 if heads have lists `apart`.

    Raises:
      ValueError: if the given numbers do not fit N query and K key heads.
    """
    if apart:
      return dataclasses.replace(self, key_heads=1, query_heads=1)
    group = N // K
    key_heads, query_heads = self.key_heads, self.query_heads or group
    if not key_heads:
      heads = max(1, self.scores // (self.rows * self.columns))
      query_heads = max(g for g in _divisors(group) if g <= heads)
      key_heads = max(h for h in _divisors(K) if h * group <= max(heads, group))
      key_heads = key_heads if query_heads == group else 1
    if K % key_heads or group % query_heads or key_heads > 1 and query_heads < group:
      raise ValueError(
        f"{self} with {N} query and {K} key heads: a tile takes key heads with all of"
        " their query heads, or some query heads of one"
      )
    return dataclasses.replace(self, key_heads=key_heads, query_heads=query_heads)


def _divisors(number):
  return [d for d in range(1, number + 1) if number % d == 0]


@dataclasses.dataclass(frozen=True)
class Problem:
  """The arguments that all tiles share."""

  program: Any
  tiles: Tiles
  shape: tuple[int, ...]  # B, T, N, S, K
  hidden: bool = True  # whether some query may not see some key

  @classmethod
  def of(cls, program, tiles, q, k, hidden=True):
    """Returns a problem whose operands are padded to whole tiles."""
    (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
    sizes = (0, tiles.rows), (0, tiles.columns)
    operands = tuple(pad(x, *sizes) for x in program.operands)
    own = dataclasses.replace(program, operands=operands)
    return cls(own, tiles, (B, T, N, S, K), hidden)

  def whole(self, raw):
    """Returns the shape (k, g, t, s) of a tile (k, g t, s)."""
    return raw.shape[0], self.tiles.query_heads, self.tiles.rows, raw.shape[2]

  def tile(self, part, *, unit, i, j, raw=None):
    """Evaluates an Elementwise of the program on a tile of scores, (k, g, t, s)."""
    start, sizes = self._place(unit, i, j)
    operands = [
      self._cut(self.program.operands[p], start, sizes) for p in part.operands
    ]
    return part(*(() if raw is None else (raw,)), *self._indices(i, j), *operands)

  def score_and_pull(self, raw, unit, i, j):
    """Returns (score, pull) of a tile, the modified scores and their VJP.

    pull(dscore, sums) is (draw, the sums with the operands' gradients added).
    """
    part, (start, sizes) = self.program.score, self._place(unit, i, j)
    operands = [
      self._cut(self.program.operands[p], start, sizes) for p in part.operands
    ]
    value, change = score_and_pull(part, raw, self._indices(i, j), operands)

    def pull(dscore, sums):
      draw, found = change(dscore)
      sums = list(sums)
      for p, x in found.items():
        sums[p] = self._add(sums[p], x, start, sizes)
      return draw, sums

    return value, pull

  def _indices(self, i, j):
    t = i * self.tiles.rows + jnp.arange(self.tiles.rows, dtype=jnp.int32)
    s = j * self.tiles.columns + jnp.arange(self.tiles.columns, dtype=jnp.int32)
    return t[None, None, :, None], s[None, None, None]

  def _place(self, unit, i, j):
    N, heads = self.shape[2], self.tiles.key_heads * self.tiles.query_heads
    start = unit * heads // N, unit * heads % N
    start = *start, i * self.tiles.rows, j * self.tiles.columns
    return start, (1, heads, self.tiles.rows, self.tiles.columns)

  def _window(self, x, start, sizes):
    size = [min(a, b) for a, b in zip(sizes, x.shape)]
    start = [jnp.asarray(a if n > 1 else 0, jnp.int32) for a, n in zip(start, x.shape)]
    return start, size

  def _cut(self, x, start, sizes):
    start, size = self._window(x, start, sizes)
    x = jax.lax.dynamic_slice(x, start, size)
    heads = (self.tiles.key_heads, self.tiles.query_heads) if size[1] > 1 else (1, 1)
    return x.reshape(*heads, *size[2:])

  def _add(self, x, part, start, sizes):
    start, size = self._window(x, start, sizes)
    part = jax.lax.dynamic_slice(x, start, size) + part.reshape(size)
    return jax.lax.dynamic_update_slice(x, part, start)


def defaults(q, k, mask: Mask) -> tuple[Tiles, Tiles]:
  """Returns the tiles of the forward and of the backward pass.

  They were the fastest at (1, 4096, 8, 64), and with a window at (1, 16384, 8, 64).

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H).
    mask: of the scores.
  """
  T, S = q.shape[1], k.shape[1]
  narrow = any(isinstance(part, _NARROW) for part in mask.conjuncts())
  if T <= 256:
    sides, scores = (128, 128), (2**20, 2**20)
  elif narrow:
    sides, scores = (128, 128), (2**17, 2**17)
  else:
    sides, scores = (512, 512), (2**19, 2**19)
  forward, backward = (
    Tiles(min(T, side), min(S, side), scores=most) for side, most in zip(sides, scores)
  )
  return forward, backward


def loops(units: int) -> list[tuple[int, int]]:
  """Returns (first unit, number of units) of loops that are independent of each other.

  XLA runs two such loops at a time on a processor: one works while the other waits for
  the last thread of a product.
  """
  half = units // 2
  return [(0, half), (half, units - half)] if half else [(0, units)]


def seen_in(problem, raw, u, i, j, rows=False):
  """Returns the mask of a partial tile, (k, g t, s), or None.

  With `rows` the padding of queries sees nothing either: it would spread NaN from keys
  that no query sees, where gradients sum over queries.
  """
  tiles, (T, S) = problem.tiles, (problem.shape[1], problem.shape[3])
  seen = None
  if problem.program.seen is not None:
    seen = problem.tile(problem.program.seen, unit=u, i=i, j=j)
  if S % tiles.columns:
    inside = j * tiles.columns + jnp.arange(tiles.columns, dtype=jnp.int32) < S
    seen = inside if seen is None else jnp.logical_and(*_alike(seen, inside))
  if rows and problem.hidden and T % tiles.rows:
    inside = i * tiles.rows + jnp.arange(tiles.rows, dtype=jnp.int32)[:, None] < T
    seen = inside if seen is None else jnp.logical_and(*_alike(seen, inside))
  if seen is None:
    return None
  whole = problem.whole(raw)
  seen = seen.reshape((1,) * (len(whole) - seen.ndim) + seen.shape)
  return jnp.broadcast_to(seen, whole).reshape(raw.shape)


def only(seen, x):
  """Returns x, or 0 where it is not seen; with None all is seen."""
  return x if seen is None else jnp.where(seen, x, 0.0)


def _alike(*arrays):
  """Reshapes arrays to the same number of axes."""
  most = max(x.ndim for x in arrays)
  return [x.reshape((1,) * (most - x.ndim) + x.shape) for x in arrays]


def pick(x, u, j):
  """Returns x[u, j] for dynamic u and j."""
  return jax.lax.dynamic_slice(x, place(x, u, j), (1, 1, *x.shape[2:]))[0, 0]


def place(x, u, j):
  """Returns the start indices of x[u, j], all int32.

  `dynamic_slice` needs one index type, also under jax_enable_x64.
  """
  return [jnp.asarray(i, jnp.int32) for i in (u, j, *(0,) * (x.ndim - 2))]


def split(x, size, key_heads, query_heads, K, fill=0.0):
  """Splits (B, T, N, H) into (unit, block, k, g, t, H) of the sums' type, padded."""
  B, T, N, H = x.shape
  blocks = -(-T // size)
  ends = ((0, 0), (0, blocks * size - T), (0, 0), (0, 0))
  x = jnp.pad(x.astype(accumulator_dtype(x)), ends, constant_values=fill)
  # A unit is some key heads with all their queries, or one with some of its queries.
  x = x.reshape(B, blocks, size, -1, key_heads, query_heads, H)
  x = x.transpose(0, 3, 1, 4, 5, 2, 6)
  return x.reshape(-1, blocks, key_heads, query_heads, size, H)


def join(x, B, T, N):
  """Joins (unit, block, k, g, t, H) to (B, T, N, H)."""
  _, blocks, k, g, t, H = x.shape
  x = x.reshape(B, -1, blocks, k, g, t, H).transpose(0, 2, 5, 1, 3, 4, 6)
  return x.reshape(B, blocks * t, N, H)[:, :T]


def by_unit(x, B, N, units):
  """Reshapes lists (B|1, N|1, ...) to (units|1, ...)."""
  x = jnp.asarray(x)
  if x.shape[:2] == (1, 1):
    return x[0]
  x = jnp.broadcast_to(x, (B, N, *x.shape[2:])).reshape(B * N, *x.shape[2:])
  return x[:: B * N // units]
