# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernels: a program a tile of rows, with a loop over tiles of columns.

Rows and columns are read a piece of DEPTH elements at a time, from the chip's cache
after the first time: long ones fit in no register. The backward kernel's programs hold
WIDTH elements of the sums of a tile; several of them compute the scores again. The grid
is of one axis, since CUDA's others end at 65 535. Arrays are padded to whole tiles.
"""

import triton
import triton.language as tl


@triton.jit
def _scores(x, y, r, c, D: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr):
  """Computes the products of rows r of x and c of y, as (r, c)."""
  d = tl.arange(0, DEPTH)
  rows = x + r.to(tl.int64)[:, None] * D + d[None, :]  # which may be beyond 2^31
  columns = y + c.to(tl.int64)[None, :] * D + d[:, None]
  score = tl.zeros((r.shape[0], c.shape[0]), tl.float32)
  for _ in range(0, D, DEPTH):
    score = tl.dot(tl.load(rows), tl.load(columns), score, input_precision=PRECISION)
    rows += DEPTH
    columns += DEPTH
  return score


@triton.jit
def _seen(
  label,
  labels,
  group,
  groups,
  mask,
  r,
  c,
  C,
  C_PAD: tl.constexpr,
  GROUPED: tl.constexpr,
  MASKED: tl.constexpr,
  RAGGED: tl.constexpr,
):
  """Returns the booleans of counted pairs."""
  found = tl.full((r.shape[0], c.shape[0]), True, tl.int1)
  if MASKED:
    place = mask + r.to(tl.int64)[:, None] * C_PAD + c[None, :]
    found = found & (tl.load(place) != 0)
  if GROUPED:
    found = found & (group[:, None] != tl.load(groups + c)[None, :])
  if MASKED or GROUPED:
    found = found | (label[:, None] == labels[None, :])
  if RAGGED:
    found = found & (c < C)[None, :]
  return found


@triton.jit
def _hit(low, high, others, j):
  """Returns whether a label of the rows can equal one of a tile of columns."""
  return (low <= tl.load(others + 2 * j + 1)) & (tl.load(others + 2 * j) <= high)


@triton.jit
def forward_kernel(
  spans,
  others,
  scale,
  x,
  y,
  label,
  labels,
  group,
  groups,
  mask,
  C,
  top,
  total,
  positive,
  D: tl.constexpr,
  C_PAD: tl.constexpr,
  ROWS: tl.constexpr,
  COLUMNS: tl.constexpr,
  DEPTH: tl.constexpr,
  GROUPED: tl.constexpr,
  MASKED: tl.constexpr,
  RAGGED: tl.constexpr,
  POSITIVE: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes top, total and positive scores (R,), padded to whole tiles."""
  i = tl.program_id(0)
  r, place = i * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
  scale, own = tl.load(scale), tl.load(label + r)
  low, high = tl.load(spans + 2 * i), tl.load(spans + 2 * i + 1)
  group_of = own
  if GROUPED:
    group_of = tl.load(group + r)
  most = tl.full((ROWS,), -3.4028234663852886e38, tl.float32)
  sums = tl.zeros((ROWS,), tl.float32)
  found = tl.zeros((ROWS,), tl.float32)
  for j in range(0, C_PAD // COLUMNS):
    c = j * COLUMNS + place
    score = _scores(x, y, r, c, D, DEPTH, PRECISION) * scale
    theirs = tl.load(labels + c)
    if POSITIVE:
      if _hit(low, high, others, j):
        equal = own[:, None] == theirs[None, :]
        found += tl.sum(tl.where(equal, score, 0.0), 1)
    if GROUPED or MASKED or RAGGED:
      seen = _seen(
        own, theirs, group_of, groups, mask, r, c, C, C_PAD, GROUPED, MASKED, RAGGED
      )
      score = tl.where(seen, score, float("-inf"))
    new = tl.maximum(most, tl.max(score, 1))
    sums = sums * _power(most - new) + tl.sum(_power(score - new[:, None]), 1)
    most = new
  tl.store(top + r, tl.where(sums > 0, most, 0.0))
  tl.store(total + r, sums)
  tl.store(positive + r, found)


@triton.jit
def backward_kernel(
  spans,
  others,
  scale,
  x,
  y,
  label,
  labels,
  group,
  groups,
  mask,
  top,
  total,
  positive,
  tops,
  totals,
  positives,
  C,
  sums,
  D: tl.constexpr,
  C_PAD: tl.constexpr,
  ROWS: tl.constexpr,
  COLUMNS: tl.constexpr,
  DEPTH: tl.constexpr,
  WIDTH: tl.constexpr,
  GROUPED: tl.constexpr,
  MASKED: tl.constexpr,
  RAGGED: tl.constexpr,
  BY_ROWS: tl.constexpr,
  BY_COLUMNS: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes WIDTH elements of the sums (R, D) of a tile of rows."""
  parts: tl.constexpr = (D + WIDTH - 1) // WIDTH
  i, part = tl.program_id(0) // parts, tl.program_id(0) % parts
  r, place = i * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
  e = part * WIDTH + tl.arange(0, WIDTH)
  scale, own = tl.load(scale), tl.load(label + r)
  low, high = tl.load(spans + 2 * i), tl.load(spans + 2 * i + 1)
  most, factor = tl.load(top + r), tl.load(total + r)
  shift = tl.load(positive + r)
  group_of = own
  if GROUPED:
    group_of = tl.load(group + r)
  acc = tl.zeros((ROWS, WIDTH), tl.float32)
  for j in range(0, C_PAD // COLUMNS):
    c = j * COLUMNS + place
    score = _scores(x, y, r, c, D, DEPTH, PRECISION) * scale
    theirs = tl.load(labels + c)
    slope = tl.zeros((ROWS, COLUMNS), tl.float32)
    if BY_ROWS:
      slope += _power(score - most[:, None]) * factor[:, None]
    if BY_COLUMNS:
      slope += _power(score - tl.load(tops + c)[None, :]) * tl.load(totals + c)[None, :]
    if GROUPED or MASKED or RAGGED:
      seen = _seen(
        own, theirs, group_of, groups, mask, r, c, C, C_PAD, GROUPED, MASKED, RAGGED
      )
      slope = tl.where(seen, slope, 0.0)
    if _hit(low, high, others, j):
      both = shift[:, None] + tl.load(positives + c)[None, :]
      slope += tl.where(own[:, None] == theirs[None, :], both, 0.0)
    values = tl.load(
      y + c.to(tl.int64)[:, None] * D + e[None, :], mask=(e < D)[None, :], other=0.0
    )
    acc = tl.dot(slope.to(values.dtype), values, acc, input_precision=PRECISION)
  tl.store(sums + r.to(tl.int64)[:, None] * D + e[None, :], acc, mask=(e < D)[None, :])


@triton.jit
def _power(distance):
  return tl.exp2(distance * 1.4426950408889634)
