"""The TPU kernels: grid (tiles of rows, tiles of columns), the columns inside.

Vectors of rows come as lines and lie in all 128 lanes while a tile of rows is worked
on; sums of a row are kept in parts, an element in the lane that it stands in, which are
added up at the end. A tile of columns is worked on in pieces of `plan.piece`, so that
scores stay near the registers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 128
# Below all scores, and finite: a row that sees nothing has no NaN.
LEAST = float(jnp.finfo(jnp.float32).min)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The constants of a kernel.

  Attributes:
    rows: of a tile.
    columns: of a tile.
    piece: columns that are worked on at once.
    length: all columns.
    ragged: whether the last tile of columns is padded.
    grouped: whether groups are compared.
    masked: whether there is a mask.
    exact: whether products need the precision of float32.
    positive: in the forward pass, whether positive scores are computed.
    uses: in the backward pass, whether the slopes of rows and of columns are used.
  """

  rows: int
  columns: int
  piece: int
  length: int
  ragged: bool
  grouped: bool
  masked: bool
  exact: bool
  positive: bool = False
  uses: tuple[bool, bool] = (False, False)


@dataclasses.dataclass(frozen=True)
class _Given:
  """The references that both kernels read."""

  plan: Plan
  spans: Any
  others: Any
  scale: Any
  x: Any
  y: Any
  label: Any
  labels: Any
  groups: Any
  mask: Any

  def hit(self):
    """Returns whether a label of the rows can equal one of the columns."""
    i, j = pl.program_id(0), pl.program_id(1)
    low = jnp.maximum(self.spans[2 * i], self.others[2 * j])
    return low <= jnp.minimum(self.spans[2 * i + 1], self.others[2 * j + 1])

  def scores(self, at: int):
    """Returns the scores (rows, piece) of all pairs of a piece."""
    y = self.y[at : at + self.plan.piece, :]
    score = product(self.plan, self.x[...], y, 1)
    return score * self.scale[0]

  def matching(self, at: int):
    """Returns the booleans of positive pairs of a piece."""
    piece = slice(at, at + self.plan.piece)
    return across(self.label[...], self.plan.piece) == self.labels[:, piece]

  def seen(self, at: int, group):
    """Returns the booleans of counted pairs of a piece, None where all are."""
    plan, found = self.plan, None
    piece = slice(at, at + plan.piece)
    if plan.masked:
      found = self.mask[:, piece].astype(jnp.int32) != 0
    if plan.grouped:
      other = across(group[...], plan.piece) != self.groups[:, piece]
      found = other if found is None else found & other
    if found is not None:
      found |= self.matching(at)
    if plan.ragged:
      place = jax.lax.broadcasted_iota(jnp.int32, (1, plan.piece), 1)
      inside = place < plan.length - pl.program_id(1) * plan.columns - at
      found = inside if found is None else found & inside
    return found


def forward(plan: Plan, spans, others, *references):
  """Computes top, total and positive scores of a tile of rows."""
  scale, x, y, own, labels, group, groups, mask, *more = references
  top, total, positive, label, own_group, most, sums, found = more
  given = _Given(plan, spans, others, scale, x, y, label, labels, groups, mask)

  @pl.when(pl.program_id(1) == 0)
  def _():
    most[...] = jnp.full(most.shape, LEAST, jnp.float32)
    sums[...] = jnp.zeros(sums.shape, jnp.float32)
    found[...] = jnp.zeros(found.shape, jnp.float32)
    label[...] = down(own[...])
    if plan.grouped:
      own_group[...] = down(group[...])

  for at in range(0, plan.columns, plan.piece):
    score, seen = given.scores(at), given.seen(at, own_group)
    if plan.positive:
      _add_positive(given, at, score, found)
    if seen is not None:
      score = jnp.where(seen, score, -jnp.inf)
    old = most[...]
    new = jnp.maximum(old, by_lane(jnp.maximum, score).max(axis=1, keepdims=True))
    weight = jnp.exp(score - across(new, plan.piece))
    most[...] = new
    sums[...] = sums[...] * jnp.exp(old - new) + by_lane(jax.lax.add, weight)

  @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
  def _():
    whole = sums[...].sum(axis=1, keepdims=True)
    greatest = jnp.where(whole > 0, most[...], 0.0)
    top[...] = greatest.T[:1]
    total[...] = jnp.broadcast_to(whole, greatest.shape).T[:1]
    score = found[...].sum(axis=1, keepdims=True)
    positive[...] = jnp.broadcast_to(score, greatest.shape).T[:1]


def _add_positive(given: _Given, at: int, score, found):
  """Adds the scores of positive pairs of a piece, by lanes."""

  @pl.when(given.hit())
  def _():
    own = jnp.where(given.matching(at), score, 0.0)
    found[...] += by_lane(jax.lax.add, own)


def backward(plan: Plan, spans, others, *references):
  """Adds up the sums of slopes times columns of a tile of rows."""
  scale, x, y, own, labels, group, groups, mask, *more = references
  lines, columns, (sums, label, own_group, *sides) = more[:3], more[3:6], more[6:]
  given = _Given(plan, spans, others, scale, x, y, label, labels, groups, mask)
  tops, totals, positives = columns

  @pl.when(pl.program_id(1) == 0)
  def _():
    sums[...] = jnp.zeros(sums.shape, jnp.float32)
    label[...] = down(own[...])
    if plan.grouped:
      own_group[...] = down(group[...])
    for line, side in zip(lines, sides, strict=True):
      side[...] = down(line[...])

  top, total, positive = sides
  for at in range(0, plan.columns, plan.piece):
    score, piece = given.scores(at), slice(at, at + plan.piece)
    terms = []
    if plan.uses[0]:
      weight = jnp.exp(score - across(top[...], plan.piece))
      terms.append(weight * across(total[...], plan.piece))
    if plan.uses[1]:
      terms.append(jnp.exp(score - tops[:, piece]) * totals[:, piece])
    slope, seen = functools.reduce(jax.lax.add, terms), given.seen(at, own_group)
    if seen is not None:
      slope = jnp.where(seen, slope, 0.0)
    sums[...] += product(plan, slope.astype(y.dtype), y[piece, :], 0)

  @pl.when(given.hit())
  def _():
    for at in range(0, plan.columns, plan.piece):
      piece = slice(at, at + plan.piece)
      slope = across(positive[...], plan.piece) + positives[:, piece]
      slope = jnp.where(given.matching(at), slope, 0.0)
      sums[...] += product(plan, slope.astype(y.dtype), y[piece, :], 0)


def product(plan: Plan, x, y, axis: int):
  """Returns x times y in float32, over axis 1 of x and an axis of y."""
  return jax.lax.dot_general(
    x,
    y,
    (((1,), (axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if plan.exact else None,
    preferred_element_type=jnp.float32,
  )


def down(line):
  """Returns a line (1, n) down the sublanes, broadcast to all lanes: (n, 128)."""
  return jnp.broadcast_to(line, (LANES, line.shape[1])).T


def across(columns, width: int):
  """Returns columns (n, 128), equal in all lanes, as (n, width)."""
  return columns if width == LANES else jnp.tile(columns, (1, width // LANES))


def by_lane(function, x):
  """Returns an associative function of the elements of each lane, (rows, 128)."""
  pieces = [x[:, n : n + LANES] for n in range(0, x.shape[1], LANES)]
  return functools.reduce(function, pieces)
