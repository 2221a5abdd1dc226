# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Parts of the GPU kernels: where windows lie, and their logits.

A row of the map meets a row of values as in attention: queries down, values across. The
logits of a row of taps, queries by taps, are gathered to where the taps' values are.
"""

import triton
import triton.language as tl


@triton.jit
def program(H, W, PIXELS: tl.constexpr):
  """Returns (unit, row, first column) of a program of some pixels of a row."""
  count = (W + PIXELS - 1) // PIXELS
  place = tl.program_id(0)
  unit = (place // count // H).to(tl.int64)
  return unit, place // count % H, place % count * PIXELS


@triton.jit
def first(i, n, K: tl.constexpr):
  """Returns the first pixel of the windows of pixels on an axis of length n."""
  return tl.minimum(tl.maximum(i - K // 2, 0), n - K)


@triton.jit
def pixels(array, unit, row, x, H, W, n, G: tl.constexpr, N: tl.constexpr):
  """Returns pointers to pixels of a row of a map (B, H, W, G, N)."""
  array += ((unit // G * H + row) * W * G + unit % G) * N
  return array + x[:, None] * (G * N) + n[None, :]


@triton.jit
def line(array, unit, row, x, H, W, G: tl.constexpr):
  """Returns pointers to what pixels of a row of a map (B, H, W, G) have."""
  return array + (unit // G * H + row) * W * G + unit % G + x * G


@triton.jit
def read(array, unit, row, x, H, W, n, G: tl.constexpr, N: tl.constexpr):
  """Returns pixels of a row of a map, zeros after its end and after the channels."""
  there = (x < W)[:, None] & (n < N)[None, :]
  return tl.load(pixels(array, unit, row, x, H, W, n, G, N), mask=there, other=0.0)


@triton.jit
def row_of_keys(keys, unit, row, t, h, K: tl.constexpr, D: tl.constexpr):
  """Returns the keys (taps, channels) of a row of a window."""
  keys += (unit * K + row) * K * D
  there = (t < K)[:, None] & (h < D)[None, :]
  return tl.load(keys + t[:, None] * D + h[None, :], mask=there, other=0.0)


@triton.jit
def logits(
  query,
  key,
  bias,
  relative,
  unit,
  tap,
  down,
  i,
  j,
  begin,
  W,
  t,
  G: tl.constexpr,
  K: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Returns the logits of queries at columns i and values at j, -inf if unseen.

  `tap` is the row of taps, `down` its distance from the queries' row, and `begin` the
  first column of the windows.
  """
  X: tl.constexpr = 2 * K - 1
  score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
  score += tl.load(bias + tap * K + t, mask=t < K, other=0.0)[None, :]
  place = j[None, :] - begin[:, None]
  seen = (place >= 0) & (place < K) & (j < W)[None, :]
  score = tl.gather(score, tl.where(seen, place, 0), 1)
  relative += (unit % G * X + down + K - 1) * X + K - 1
  score += tl.load(relative + j[None, :] - i[:, None], mask=seen, other=0.0)
  return tl.where(seen, score, float("-inf"))
