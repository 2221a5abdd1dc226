# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel of the gradients of values: a program for some pixels of a row.

It visits the rows of queries whose windows hold its row, and of these rows the queries
whose windows may hold a pixel of its own.
"""

import triton
import triton.language as tl

from pallas_kernels.dynamic_window.triton_gpu import parts

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _low(j, K: tl.constexpr):
  """Returns the first pixel of an axis whose window holds pixel j."""
  return tl.where(j < K, 0, j - K // 2)


@triton.jit
def _high(j, n, K: tl.constexpr):
  """Returns the last pixel of an axis of length n whose window holds pixel j."""
  return tl.where(j >= n - K, n - 1, j + K // 2)


@triton.jit
def values_kernel(
  q,
  keys,
  bias,
  relative,
  g,
  lse,
  H,
  W,
  dv,
  G: tl.constexpr,
  K: tl.constexpr,
  D: tl.constexpr,
  C: tl.constexpr,
  PIXELS: tl.constexpr,
  NEAR: tl.constexpr,
  TAPS: tl.constexpr,
  WIDE_D: tl.constexpr,
  WIDE_C: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes dv (B, H, W, G, C)."""
  unit, row, start = parts.program(H, W, PIXELS)
  t, h, n = tl.arange(0, TAPS), tl.arange(0, WIDE_D), tl.arange(0, WIDE_C)
  j = start + tl.arange(0, PIXELS)
  x = _low(start, K) + tl.arange(0, NEAR)
  i = tl.minimum(x, W - 1)
  begin = parts.first(i, W, K)
  acc = tl.zeros((PIXELS, WIDE_C), tl.float32)
  for y in range(_low(row, K), _high(row, H, K) + 1):
    tap = row - parts.first(y, H, K)
    query = parts.read(q, unit, y, x, H, W, h, G, D)
    slope = parts.read(g, unit, y, x, H, W, n, G, C)
    lines = parts.line(lse, unit, y, x, H, W, G)
    log = tl.load(lines, mask=x < W, other=float("inf"))
    key = parts.row_of_keys(keys, unit, tap, t, h, K, D)
    score = parts.logits(
      query, key, bias, relative, unit, tap, row - y, i, j, begin, W, t, G, K, PRECISION
    )
    weight = tl.exp2((score - log[:, None]) * LOG2E).to(slope.dtype)
    acc = tl.dot(tl.trans(weight), slope, acc, input_precision=PRECISION)
  there = (j < W)[:, None] & (n < C)[None, :]
  acc = acc.to(dv.dtype.element_ty)
  tl.store(parts.pixels(dv, unit, row, j, H, W, n, G, C), acc, mask=there)
