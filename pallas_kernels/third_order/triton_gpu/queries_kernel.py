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
  i, u, size = parts.program(R, ROWS)
  start = tl.load(start)
  t, s, h, v = parts.lanes(ROWS, SECOND, H, V)
  row = i * ROWS + t
  query = tl.load(parts.tile(q, u, size, i * ROWS, t, h, H))
  slope = tl.load(parts.tile(g, u, size, i * ROWS, t, v, V))
  most, part_of = tl.load(top + u * size + row), tl.load(share + u * size + row)
  less = tl.load(delta + u * size + row)
  ids = parts.documents(own, (u // HEADS) * size + row, PACKED)
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
    if PACKED:
      whole = whole & False
    marks = parts.documents(second, (u // HEADS) * LENGTH + begin + s, PACKED)
    a, b = tl.where(whole, all_low, low), tl.where(whole, all_high, low)
    for j in range(a, b):
      k, value = parts.key(k1, v1, j, h, v, H, V)
      score = parts.scores(query, k, keys, PRECISION)
      weight = parts.weights(score, most, part_of, SCALE)
      right = parts.times(slope, value)
      change = parts.slopes(weight, right, values, less, PRECISION)
      by = tl.dot(change.to(keys.dtype), keys, input_precision=PRECISION)
      acc += by * k.to(tl.float32)[None, :]
    for m in range(0, high - low - (b - a)):
      j = parts.skipping(low, m, a, b)
      k, value = parts.key(k1, v1, j, h, v, H, V)
      one = parts.documents(first, (u // HEADS) * LENGTH + j, PACKED)
      score = parts.scores(query, k, keys, PRECISION)
      seen = parts.both(
        row, j, begin + s, start, S, ids, one, marks, W1, W2, CAUSAL, GROUP, PACKED
      )
      score = tl.where(seen, score, float("-inf"))
      weight = parts.weights(score, most, part_of, SCALE)
      right = parts.times(slope, value)
      change = parts.slopes(weight, right, values, less, PRECISION)
      by = tl.dot(change.to(keys.dtype), keys, input_precision=PRECISION)
      acc += by * k.to(tl.float32)[None, :]
  acc = (acc * SCALE).to(dq.dtype.element_ty)
  tl.store(parts.tile(dq, u, size, i * ROWS, t, h, H), acc)
