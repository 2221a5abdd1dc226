# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel of the gradients of the first stream: a program a key.

Tiles of rows follow each other in the outer loop, tiles of the second stream in the
inner one, over which both products add up where the tensor cores leave them.
"""

import triton
import triton.language as tl

from pallas_kernels.third_order.triton_gpu import parts


@triton.jit
def keys_kernel(
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
  dk,
  dv,
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
  """Computes dk (U, S, H) and dv (U, S, V), in float32."""
  j, u = tl.program_id(0) % S, (tl.program_id(0) // S).to(tl.int64)
  size = (R + ROWS - 1) // ROWS * ROWS
  start = tl.load(start)
  t, s, h, v = parts.lanes(ROWS, SECOND, H, V)
  k = tl.load(k1 + (u * LENGTH + j) * H + h)
  value = tl.load(v1 + (u * LENGTH + j) * V + v)
  one = parts.documents(first, (u // HEADS) * LENGTH + j, PACKED)
  low_row, high_row = j * 0, j * 0 + R
  if CAUSAL:
    low_row = tl.maximum((j - start) * GROUP, 0)
  elif W1 > 0:
    low_row = tl.maximum((j - W1 + 1 - start) * GROUP, 0)
  if W1 > 0:
    high_row = tl.minimum((j + W1 - start) * GROUP, R)
  by_key, by_value = tl.zeros((H,), tl.float32), tl.zeros((V,), tl.float32)
  for i in range(low_row // ROWS, (high_row + ROWS - 1) // ROWS):
    row = i * ROWS + t
    most, part_of = tl.load(top + u * size + row), tl.load(share + u * size + row)
    less = tl.load(delta + u * size + row)
    ids = parts.documents(own, (u // HEADS) * size + row, PACKED)
    left = parts.times(tl.load(parts.tile(q, u, size, i * ROWS, t, h, H)), k)
    right = parts.times(tl.load(parts.tile(g, u, size, i * ROWS, t, v, V)), value)
    p, last = parts.positions(i, start, R, GROUP, ROWS)
    _, all_low, all_high, _ = parts.ends(p, last, S, W1, CAUSAL)
    low2, all_low2, all_high2, high2 = parts.ends(p, last, S, W2, CAUSAL)
    whole = (j >= all_low) & (j < all_high)
    if PACKED:
      whole = whole & False
    # The tiles from a to b need no mask.
    low, high = low2 // SECOND, (high2 + SECOND - 1) // SECOND
    a = tl.where(whole, (all_low2 + SECOND - 1) // SECOND, low)
    b = tl.maximum(tl.where(whole, all_high2 // SECOND, low), a)
    sums = tl.zeros((ROWS, H), tl.float32)
    results = tl.zeros((ROWS, V), tl.float32)
    for n in range(a, b):
      keys = tl.load(parts.tile(k2, u, LENGTH, n * SECOND, s, h, H))
      values = tl.load(parts.tile(v2, u, LENGTH, n * SECOND, s, v, V))
      score = tl.dot(left, tl.trans(keys), input_precision=PRECISION)
      weight = parts.weights(score, most, part_of, SCALE)
      change = parts.slopes(weight, right, values, less, PRECISION)
      sums = tl.dot(change.to(keys.dtype), keys, sums, input_precision=PRECISION)
      weight = weight.to(values.dtype)
      results = tl.dot(weight, values, results, input_precision=PRECISION)
    for m in range(0, high - low - (b - a)):
      n = parts.skipping(low, m, a, b)
      keys = tl.load(parts.tile(k2, u, LENGTH, n * SECOND, s, h, H))
      values = tl.load(parts.tile(v2, u, LENGTH, n * SECOND, s, v, V))
      at = (u // HEADS) * LENGTH + n * SECOND + s
      marks = parts.documents(second, at, PACKED)
      score = tl.dot(left, tl.trans(keys), input_precision=PRECISION)
      key = n * SECOND + s
      seen = parts.both(
        row, j, key, start, S, ids, one, marks, W1, W2, CAUSAL, GROUP, PACKED
      )
      score = tl.where(seen, score, float("-inf"))
      weight = parts.weights(score, most, part_of, SCALE)
      change = parts.slopes(weight, right, values, less, PRECISION)
      sums = tl.dot(change.to(keys.dtype), keys, sums, input_precision=PRECISION)
      weight = weight.to(values.dtype)
      results = tl.dot(weight, values, results, input_precision=PRECISION)
    # Read once more: kept, they would take the registers of the sums.
    query = tl.load(parts.tile(q, u, size, i * ROWS, t, h, H), volatile=True)
    by_key += tl.sum(sums * query.to(tl.float32), 0)
    slope = tl.load(parts.tile(g, u, size, i * ROWS, t, v, V), volatile=True)
    by_value += tl.sum(results * slope.to(tl.float32), 0)
  tl.store(dk + (u * LENGTH + j) * H + h, by_key * SCALE)
  tl.store(dv + (u * LENGTH + j) * V + v, by_value)
