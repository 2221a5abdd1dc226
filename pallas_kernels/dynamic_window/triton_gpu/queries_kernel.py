# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel of the gradients of queries, keys, bias and distances.

A program has a part of the rows of a batch entry and group, and sums of its own in
memory: it adds to them row by row, no other program does.
"""

import triton
import triton.language as tl

from pallas_kernels.dynamic_window.triton_gpu import parts

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _clear(dkeys, dbias, drelative, SIZE: tl.constexpr, D: tl.constexpr, X, O):
  """Clears a program's own sums."""
  block = tl.arange(0, 256)
  zeros = tl.zeros((256,), tl.float32)
  for n in range(0, SIZE * D, 256):
    tl.store(dkeys + n + block, zeros, mask=n + block < SIZE * D)
  for n in range(0, SIZE, 256):
    tl.store(dbias + n + block, zeros, mask=n + block < SIZE)
  for n in range(0, X * O, 256):
    tl.store(drelative + n + block, zeros, mask=n + block < X * O)
  tl.debug_barrier()


@triton.jit
def _add(pointers, change, there):
  """Adds to a program's own sums."""
  tl.store(pointers, tl.load(pointers, mask=there, other=0.0) + change, mask=there)


@triton.jit
def queries_kernel(
  q,
  keys,
  bias,
  relative,
  v,
  g,
  lse,
  delta,
  H,
  W,
  parts_of_map,
  dq,
  dkeys,
  dbias,
  drelative,
  G: tl.constexpr,
  K: tl.constexpr,
  D: tl.constexpr,
  C: tl.constexpr,
  PIXELS: tl.constexpr,
  NEAR: tl.constexpr,
  TAPS: tl.constexpr,
  WIDE_D: tl.constexpr,
  WIDE_C: tl.constexpr,
  DISTANCES: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes dq, and a part's dkeys (K^2, D), dbias (K^2) and drelative by distance."""
  X: tl.constexpr = 2 * K - 1
  place = tl.program_id(0)
  unit, part = (place // parts_of_map).to(tl.int64), place % parts_of_map
  dkeys += place.to(tl.int64) * K * K * D
  dbias += place.to(tl.int64) * K * K
  drelative += place.to(tl.int64) * X * DISTANCES
  _clear(dkeys, dbias, drelative, K * K, D, X, DISTANCES)
  t, h, n = tl.arange(0, TAPS), tl.arange(0, WIDE_D), tl.arange(0, WIDE_C)
  distance = tl.arange(0, DISTANCES)
  key_there = (t < K)[:, None] & (h < D)[None, :]
  count = (W + PIXELS - 1) // PIXELS
  low, high = part * H // parts_of_map, (part + 1) * H // parts_of_map
  for turn in range(low * count, high * count):
    y, start = turn // count, turn % count * PIXELS
    x = start + tl.arange(0, PIXELS)
    query = parts.read(q, unit, y, x, H, W, h, G, D)
    slope = parts.read(g, unit, y, x, H, W, n, G, C)
    # A weight of a pixel after the end of a row is 0.
    lines = parts.line(lse, unit, y, x, H, W, G)
    log = tl.load(lines, mask=x < W, other=float("inf"))
    less = tl.load(parts.line(delta, unit, y, x, H, W, G), mask=x < W, other=0.0)
    i = tl.minimum(x, W - 1)
    begin, top = parts.first(i, W, K), parts.first(y, H, K)
    left = parts.first(start, W, K)
    j = left + tl.arange(0, NEAR)
    acc = tl.zeros((PIXELS, WIDE_D), tl.float32)
    for tap in range(0, K):
      key = parts.row_of_keys(keys, unit, tap, t, h, K, D)
      value = parts.read(v, unit, top + tap, j, H, W, n, G, C)
      down = top + tap - y
      score = parts.logits(
        query, key, bias, relative, unit, tap, down, i, j, begin, W, t, G, K, PRECISION
      )
      weight = tl.exp2((score - log[:, None]) * LOG2E)
      change = tl.dot(slope, tl.trans(value), input_precision=PRECISION)
      change = weight * (change - less[:, None])
      at = i[:, None] + (distance - K + 1)[None, :] - left
      there = (at >= 0) & (at < NEAR) & (distance < X)[None, :]
      by_distance = tl.gather(change, tl.where(there, at, 0), 1)
      by_distance = tl.sum(tl.where(there, by_distance, 0.0), 0)
      sums = drelative + (down + K - 1) * DISTANCES + distance
      _add(sums, by_distance, distance < X)
      at = tl.broadcast_to((begin - left)[:, None] + t[None, :], (PIXELS, TAPS))
      there = tl.broadcast_to((t < K)[None, :], (PIXELS, TAPS)) & (at < NEAR)
      change = tl.gather(change, tl.where(there, at, 0), 1)
      change = tl.where(there, change, 0.0)
      _add(dbias + tap * K + t, tl.sum(change, 0), t < K)
      change = change.to(key.dtype)
      acc = tl.dot(change, key, acc, input_precision=PRECISION)
      by_key = tl.dot(tl.trans(change), query, input_precision=PRECISION)
      sums = dkeys + (tap * K + t)[:, None] * D + h[None, :]
      _add(sums, by_key, key_there)
      tl.debug_barrier()
    there = (x < W)[:, None] & (h < D)[None, :]
    acc = acc.to(dq.dtype.element_ty)
    tl.store(parts.pixels(dq, unit, y, x, H, W, h, G, D), acc, mask=there)
