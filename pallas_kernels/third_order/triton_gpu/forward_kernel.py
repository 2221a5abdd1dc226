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
  i, u, size = parts.program(R, ROWS)
  start = tl.load(start)
  t, s, h, v = parts.lanes(ROWS, SECOND, H, V)
  row = i * ROWS + t
  query = tl.load(parts.tile(q, u, size, i * ROWS, t, h, H))
  ids = parts.documents(own, (u // HEADS) * size + row, PACKED)
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
    if PACKED:
      whole = whole & False
    marks = parts.documents(second, (u // HEADS) * LENGTH + begin + s, PACKED)
    # The keys of the first stream from a to b need no mask.
    a, b = tl.where(whole, all_low, low), tl.where(whole, all_high, low)
    for j in range(a, b):
      k, value = parts.key(k1, v1, j, h, v, H, V)
      score = parts.scores(query, k, keys, PRECISION)
      most, sums, acc = parts.add(
        score, value, values, most, sums, acc, SCALE, PRECISION
      )
    for m in range(0, high - low - (b - a)):
      j = parts.skipping(low, m, a, b)
      k, value = parts.key(k1, v1, j, h, v, H, V)
      one = parts.documents(first, (u // HEADS) * LENGTH + j, PACKED)
      score = parts.scores(query, k, keys, PRECISION)
      seen = parts.both(
        row, j, begin + s, start, S, ids, one, marks, W1, W2, CAUSAL, GROUP, PACKED
      )
      score = tl.where(seen, score, float("-inf"))
      most, sums, acc = parts.add(
        score, value, values, most, sums, acc, SCALE, PRECISION
      )
  some = sums > 0
  share = tl.where(some, 1.0 / tl.where(some, sums, 1.0), 0.0)
  acc = acc * share[:, None]
  tl.store(parts.tile(out, u, size, i * ROWS, t, v, V), acc.to(out.dtype.element_ty))
  tl.store(top + u * size + row, tl.where(some, most, 0.0))
  tl.store(total + u * size + row, sums)
