# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel of the forward pass: a program a tile of rows.

Tiles of the second stream follow each other in the outer loop, keys of the first one in
the inner one, which reads a row of k1 and of v1 a turn: k2 and v2 stay where they are.
The grid is of one axis, since CUDA's others end at 65 535.
"""

import triton
import triton.language as tl

from pallas_kernels.third_order.triton_gpu import parts


@triton.jit
def forward_kernel(
  start,
  q,
  k1,
  k2,
  v1,
  v2,
  own,
  first,
  second,
  R,
  S,
  out,
  top,
  total,
  H: tl.constexpr,
  V: tl.constexpr,
  HEADS: tl.constexpr,
  GROUP: tl.constexpr,
  LENGTH: tl.constexpr,
  W1: tl.constexpr,
  W2: tl.constexpr,
  CAUSAL: tl.constexpr,
  PACKED: tl.constexpr,
  ROWS: tl.constexpr,
  SECOND: tl.constexpr,
  SCALE: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes out (U, R, V), top and total (U, R), padded to whole tiles."""
  blocks = (R + ROWS - 1) // ROWS
  i, u = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
  size = blocks * ROWS
  start = tl.load(start)
  t, s, h, v = (
    tl.arange(0, ROWS),
    tl.arange(0, SECOND),
    tl.arange(0, H),
    tl.arange(0, V),
  )
  row = i * ROWS + t
  query = tl.load(parts.tile(q, u, size, i * ROWS, t, h, H))
  ids = row * 0
  if PACKED:
    ids = tl.load(own + (u // HEADS) * size + row)
  k1, v1 = k1 + u * LENGTH * H, v1 + u * LENGTH * V
  p, last = parts.positions(i, start, R, GROUP, ROWS)
  low, all_low, all_high, high = parts.ends(p, last, S, W1, CAUSAL)
  low2, all_low2, all_high2, high2 = parts.ends(p, last, S, W2, CAUSAL)
  most = tl.full((ROWS,), -3.4028234663852886e38, tl.float32)
  sums = tl.zeros((ROWS,), tl.float32)
  acc = tl.zeros((ROWS, V), tl.float32)
  for n in range(low2 // SECOND, (high2 + SECOND - 1) // SECOND):
    begin = n * SECOND
    keys = tl.load(parts.tile(k2, u, LENGTH, begin, s, h, H))
    values = tl.load(parts.tile(v2, u, LENGTH, begin, s, v, V))
    whole = (begin >= all_low2) & (begin + SECOND <= all_high2) & (all_low < all_high)
    marks = s * 0
    if PACKED:
      whole = whole & False
      marks = tl.load(second + (u // HEADS) * LENGTH + begin + s)
    # The keys of the first stream from a to b need no mask.
    a, b = tl.where(whole, all_low, low), tl.where(whole, all_high, low)
    for j in range(a, b):
      at = tl.cast(j, tl.int64)
      k, value = tl.load(k1 + at * H + h), tl.load(v1 + at * V + v)
      left = parts.times(query, k)
      score = tl.dot(left, tl.trans(keys), input_precision=PRECISION)
      new = tl.maximum(most, tl.max(score, 1) * SCALE)
      weight = parts.power(score * SCALE - new[:, None])
      factor = parts.power(most - new)
      part = tl.dot(weight.to(values.dtype), values, input_precision=PRECISION)
      sums = sums * factor + tl.sum(weight, 1)
      acc = acc * factor[:, None] + part * value.to(tl.float32)[None, :]
      most = new
    for m in range(0, high - low - (b - a)):
      j = low + m
      j = tl.where(j >= a, j + (b - a), j)
      at = tl.cast(j, tl.int64)
      k, value = tl.load(k1 + at * H + h), tl.load(v1 + at * V + v)
      one = 0
      if PACKED:
        one = tl.load(first + (u // HEADS) * LENGTH + at)
      left = parts.times(query, k)
      score = tl.dot(left, tl.trans(keys), input_precision=PRECISION)
      seen = parts.both(
        row, j, begin + s, start, S, ids, one, marks, W1, W2, CAUSAL, GROUP, PACKED
      )
      score = tl.where(seen, score, float("-inf"))
      new = tl.maximum(most, tl.max(score, 1) * SCALE)
      weight = parts.power(score * SCALE - new[:, None])
      factor = parts.power(most - new)
      part = tl.dot(weight.to(values.dtype), values, input_precision=PRECISION)
      sums = sums * factor + tl.sum(weight, 1)
      acc = acc * factor[:, None] + part * value.to(tl.float32)[None, :]
      most = new
  some = sums > 0
  share = tl.where(some, 1.0 / tl.where(some, sums, 1.0), 0.0)
  acc = acc * share[:, None]
  tl.store(parts.tile(out, u, size, i * ROWS, t, v, V), acc.to(out.dtype.element_ty))
  tl.store(top + u * size + row, tl.where(some, most, 0.0))
  tl.store(total + u * size + row, sums)
