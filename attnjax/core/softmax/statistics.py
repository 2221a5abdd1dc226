"""Statistics of softmax weights: sums of columns, argmax and entropy of rows.

  weight[t, s] = exp(score[t, s] - lse[t])      where the mask sees (t, s), else 0
  columns[s]   = sum_t weight[t, s]
  argmax[t]    = the first s of the greatest score[t, s]; -1 for a row that sees nothing
  entropy[t]   = sum_s weight[t, s] (lse[t] - score[t, s])

lse is that of the attention; the mask says which pairs are counted, and may see fewer.
Rows with lse = -inf have no weight. Both are computed in tiles with O(T + S) memory by
`columns` and `rows`, in plain JAX with derivatives of any order, and by their
definitions `reference_columns` and `reference_rows` with the (T, S) matrix.

Shapes: q (B, T, N, H), k (B, S, K, H), K divides N; lse (B, T, N).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import devices, programs
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Program, Scores
from attnjax.core.softmax import unseen
from attnjax.core.softmax.jvp import COLUMNS, ROWS, by_head, cut, even, join, pad
from attnjax.core.softmax.reference import scored


class Rows(NamedTuple):
  """Statistics of each query's weights.

  Attributes:
    argmax: the first key of the greatest score, -1 where nothing is seen.
    entropy: in nats, 0 where nothing is seen.
  """

  argmax: Int[Array, "B T N"]
  entropy: Float[Array, "B T N"]


def reference_columns(q, k, lse, scores: Scores, *, scale) -> Float[Array, "B N S"]:
  """Computes the sums of columns by their definition."""
  weight, _ = _dense(q, k, lse, scores, scale)
  return weight.sum(axis=2)


def reference_rows(q, k, lse, scores: Scores, *, scale) -> Rows:
  """Computes the rows' argmax and entropy by their definitions."""
  weight, score = _dense(q, k, lse, scores, scale)
  some = (score != -jnp.inf).any(axis=3)
  argmax = jnp.where(some, jnp.argmax(score, axis=3), -1).astype(jnp.int32)
  lost = jnp.where(score == -jnp.inf, 0.0, lse.swapaxes(1, 2)[..., None] - score)
  entropy = (weight * jnp.where(weight == 0, 0.0, lost)).sum(axis=3)
  return Rows(argmax.swapaxes(1, 2), entropy.swapaxes(1, 2))


def _dense(q, k, lse, scores, scale):
  """Returns (weights, scores), (B, N, T, S)."""
  score = scored(q, k, k, scores, scale)
  lse = lse.swapaxes(1, 2)[..., None]
  seen = (score != -jnp.inf) & (lse != -jnp.inf)
  below = jnp.where(seen, score, 0.0) - jnp.where(seen, lse, 0.0)
  return jnp.where(seen, jnp.exp(below), 0.0), score


def columns(q, k, lse, scores: Scores, *, scale) -> Float[Array, "B N S"]:
  """Computes the sums of columns in tiles."""
  return columns_of(q, k, lse, _program(q, k, scores), scale=scale)


def rows(q, k, lse, scores: Scores, *, scale) -> Rows:
  """Computes the rows' argmax and entropy in tiles."""
  return rows_of(q, k, lse, _program(q, k, scores), scale=scale)


def _program(q, k, scores):
  shape = q.shape[0], q.shape[2], q.shape[1], k.shape[1]
  return programs.program(scores, shape, accumulator_dtype(q))


def columns_of(q, k, lse, program: Program, *, scale) -> Float[Array, "B N S"]:
  """Computes `columns` of scores that are a program, with all of the mask."""
  tiles = _Tiles.of(q, k, lse, program)

  @jax.checkpoint
  def column(key, j):
    @jax.checkpoint
    def step(total, row):
      *query, i = row
      weight, _, _ = _tile(tiles, query, key, (i, j), scale)
      return total + weight.sum(axis=3), None

    size = key.shape[2]
    zero = jnp.zeros((*tiles.lse.shape[1:4], size), tiles.lse.dtype)
    zero = devices.vary_like(zero, tiles.lse)
    return jax.lax.scan(step, zero, (tiles.query, tiles.lse, tiles.each(0)))[0]

  found = jax.lax.map(lambda a: column(*a), (tiles.key, tiles.each(1)))
  found = jnp.moveaxis(found, 0, 3)  # (B, K, G, j, s)
  return found.reshape(q.shape[0], q.shape[2], -1)[..., : k.shape[1]]


def rows_of(q, k, lse, program: Program, *, scale) -> Rows:
  """Computes `rows` of scores that are a program, with all of the mask."""
  tiles = _Tiles.of(q, k, lse, program)

  @jax.checkpoint
  def row(query, lse, i):
    @jax.checkpoint
    def step(carry, column):
      top, index, entropy = carry
      key, j = column
      weight, score, seen = _tile(tiles, (query, lse), key, (i, j), scale)
      lost = jnp.where(seen & (weight != 0), lse[..., None] - score, 0.0)
      entropy = entropy + (weight * lost).sum(axis=-1)
      score = jax.lax.stop_gradient(jnp.where(seen, score, -jnp.inf))
      own = j * key.shape[2] + jnp.argmax(score, axis=-1).astype(jnp.int32)
      most = score.max(axis=-1)
      # A NaN is the greatest, as in `jnp.argmax`.
      more = (most > top) | (jnp.isnan(most) & ~jnp.isnan(top))
      index = jnp.where(more, own, index)
      return (jnp.where(more, most, top), index, entropy), None

    zero = jnp.zeros_like(lse)
    start = zero - jnp.inf, jnp.full_like(zero, -1, jnp.int32), zero
    start = devices.vary_like(start, lse)
    (_, index, entropy), _ = jax.lax.scan(step, start, (tiles.key, tiles.each(1)))
    return index, entropy

  given = tiles.query, tiles.lse, tiles.each(0)
  index, entropy = jax.lax.map(lambda a: row(*a), given)
  return Rows(*(join(x[..., None], q.shape[1])[..., 0] for x in (index, entropy)))


class _Tiles(NamedTuple):
  """The tiles' inputs.

  Attributes:
    query: (i, B, K, G, t, H).
    lse: (i, B, K, G, t).
    key: (j, B, K, s, H).
    program: with operands that are padded to whole tiles.
    lengths: (T, S).
  """

  query: Array
  lse: Array
  key: Array
  program: Program
  lengths: tuple[int, int]

  @classmethod
  def of(cls, q, k, lse, program):
    """Cuts the arrays; NaN at tokens reaches those that see them by their lse."""
    q, k, lse, program = devices.vary((q, k, lse, program))
    dtype, (T, S) = accumulator_dtype(q), (q.shape[1], k.shape[1])
    sizes = even(T, ROWS), even(S, COLUMNS)
    operands = tuple(pad(x, *sizes) for x in program.operands)
    K = k.shape[2]
    q, k = (unseen.clean(x).astype(dtype) for x in (q, k))
    query, lse = (_cut(x, K, sizes[0]) for x in (q, lse.astype(dtype)[..., None]))
    key = _cut(k, K, sizes[1])[:, :, :, 0]
    program = Program(operands, program.score, program.seen)
    return cls(query, lse[..., 0], key, program, (T, S))

  def each(self, axis: int) -> Array:
    """Returns the numbers of the tiles of queries (0) or of keys (1)."""
    tiles = self.query if axis == 0 else self.key
    return jnp.arange(tiles.shape[0], dtype=jnp.int32)


def _tile(tiles: _Tiles, row, key, at, scale):
  """Returns (weights, scores, which are seen) of a tile, (B, K, G, t, s)."""
  (query, lse), (i, j), program = row, at, tiles.program
  t_size, s_size = query.shape[3], key.shape[2]
  t = (i * t_size + jnp.arange(t_size, dtype=jnp.int32))[:, None]
  s = j * s_size + jnp.arange(s_size, dtype=jnp.int32)
  t, s = t[None, None, None], s[None, None, None, None]
  group = query.shape[2]

  def read(part):
    place = i, j, t_size, s_size
    return [by_head(cut(program.operands[p], place), group) for p in part.operands]

  seen = (t < tiles.lengths[0]) & (s < tiles.lengths[1])
  if program.seen is not None:
    seen = seen & program.seen(t, s, *read(program.seen))
  score = scale * jnp.einsum("bkgth,bksh->bkgts", query, key)
  if program.score is not None:
    score = jnp.where(seen, score, 0.0)
    score = program.score(score, t, s, *read(program.score))
  weighs = seen & (lse != -jnp.inf)[..., None]
  below = jnp.where(weighs, score - jnp.where(weighs, lse[..., None], 0.0), 0.0)
  seen = jnp.broadcast_to(seen, score.shape)
  return jnp.where(weighs, jnp.exp(below), 0.0), score, seen


def _cut(x, K, pieces):
  """Splits (B, T, N, H) into (i, B, K, G, t, H), padded with zeros."""
  (i, t), (B, T, N, H) = pieces, x.shape
  x = jnp.pad(x, ((0, 0), (0, i * t - T), (0, 0), (0, 0)))
  return jnp.moveaxis(x.reshape(B, i, t, K, N // K, H), (1, 2), (0, 4))
