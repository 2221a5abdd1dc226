# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel of the gradients of queries: a program a tile of rows."""

import triton
import triton.language as tl

from pallas_kernels.third_order.triton_gpu import parts


@triton.jit
def queries_kernel(
  start,
  q,
  k1,
  k2,
  v1,
  v2,
  own,
  first,
  second,
  g,
  top,
  share,
  delta,
  R,
  S,
  dq,
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
  """Computes dq (U, R, H), padded to whole tiles."""
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
  slope = tl.load(parts.tile(g, u, size, i * ROWS, t, v, V))
  most, part_of = tl.load(top + u * size + row), tl.load(share + u * size + row)
  less = tl.load(delta + u * size + row)
  ids = row * 0
  if PACKED:
    ids = tl.load(own + (u // HEADS) * size + row)
  k1, v1 = k1 + u * LENGTH * H, v1 + u * LENGTH * V
  p, last = parts.positions(i, start, R, GROUP, ROWS)
  low, all_low, all_high, high = parts.ends(p, last, S, W1, CAUSAL)
  low2, all_low2, all_high2, high2 = parts.ends(p, last, S, W2, CAUSAL)
  acc = tl.zeros((ROWS, H), tl.float32)
  for n in range(low2 // SECOND, (high2 + SECOND - 1) // SECOND):
    begin = n * SECOND
    keys = tl.load(parts.tile(k2, u, LENGTH, begin, s, h, H))
    values = tl.load(parts.tile(v2, u, LENGTH, begin, s, v, V))
    whole = (begin >= all_low2) & (begin + SECOND <= all_high2) & (all_low < all_high)
    marks = s * 0
    if PACKED:
      whole = whole & False
      marks = tl.load(second + (u // HEADS) * LENGTH + begin + s)
    a, b = tl.where(whole, all_low, low), tl.where(whole, all_high, low)
    for j in range(a, b):
      at = tl.cast(j, tl.int64)
      k, value = tl.load(k1 + at * H + h), tl.load(v1 + at * V + v)
      left = parts.times(query, k)
      score = tl.dot(left, tl.trans(keys), input_precision=PRECISION)
      weight = parts.power(score * SCALE - most[:, None]) * part_of[:, None]
      left = parts.times(slope, value)
      change = tl.dot(left, tl.trans(values), input_precision=PRECISION)
      change = weight * (change - less[:, None])
      by = tl.dot(change.to(keys.dtype), keys, input_precision=PRECISION)
      acc += by * k.to(tl.float32)[None, :]
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
      weight = parts.power(score * SCALE - most[:, None]) * part_of[:, None]
      left = parts.times(slope, value)
      change = tl.dot(left, tl.trans(values), input_precision=PRECISION)
      change = weight * (change - less[:, None])
      by = tl.dot(change.to(keys.dtype), keys, input_precision=PRECISION)
      acc += by * k.to(tl.float32)[None, :]
  acc = (acc * SCALE).to(dq.dtype.element_ty)
  tl.store(parts.tile(dq, u, size, i * ROWS, t, h, H), acc)
