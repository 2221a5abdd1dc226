# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel of the forward pass: a program for some pixels of a row."""

import triton
import triton.language as tl

from pallas_kernels.dynamic_window.triton_gpu import parts

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def forward_kernel(
  q,
  keys,
  bias,
  relative,
  v,
  H,
  W,
  out,
  lse,
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
  """Computes out (B, H, W, G, C) and lse (B, H, W, G)."""
  unit, y, start = parts.program(H, W, PIXELS)
  t, h, n = tl.arange(0, TAPS), tl.arange(0, WIDE_D), tl.arange(0, WIDE_C)
  x = start + tl.arange(0, PIXELS)
  query = parts.read(q, unit, y, x, H, W, h, G, D)
  i = tl.minimum(x, W - 1)
  begin, top = parts.first(i, W, K), parts.first(y, H, K)
  j = parts.first(start, W, K) + tl.arange(0, NEAR)
  most = tl.full((PIXELS,), -3.4028234663852886e38, tl.float32)
  total = tl.zeros((PIXELS,), tl.float32)
  acc = tl.zeros((PIXELS, WIDE_C), tl.float32)
  for tap in range(0, K):
    key = parts.row_of_keys(keys, unit, tap, t, h, K, D)
    value = parts.read(v, unit, top + tap, j, H, W, n, G, C)
    score = parts.logits(
      query,
      key,
      bias,
      relative,
      unit,
      tap,
      top + tap - y,
      i,
      j,
      begin,
      W,
      t,
      G,
      K,
      PRECISION,
    )
    new = tl.maximum(most, tl.max(score, 1))
    weight = tl.exp2((score - new[:, None]) * LOG2E)
    factor = tl.exp2((most - new) * LOG2E)
    total = total * factor + tl.sum(weight, 1)
    acc = acc * factor[:, None]
    acc = tl.dot(weight.to(value.dtype), value, acc, input_precision=PRECISION)
    most = new
  acc = (acc / total[:, None]).to(out.dtype.element_ty)
  there = (x < W)[:, None] & (n < C)[None, :]
  tl.store(parts.pixels(out, unit, y, x, H, W, n, G, C), acc, mask=there)
  found = most + tl.log(total)
  tl.store(parts.line(lse, unit, y, x, H, W, G), found, mask=x < W)
