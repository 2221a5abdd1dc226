# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel: a block of queries walks the keys of its candidates."""

import triton
import triton.language as tl

# Adding and subtracting it rounds numbers below 2^22 to the nearest, half to even.
_ROUNDS = tl.constexpr(12582912.0)
_LARGE = tl.constexpr(4194304.0)


@triton.jit
def _rounded(x):
  """Rounds to the nearest integer, half to even."""
  near = (x + _ROUNDS) - _ROUNDS
  return tl.where(tl.abs(x) < _LARGE, near, x)


@triton.jit
def _scores(query, one, k, k_scale, bias, s, live, K, H: tl.constexpr, F: tl.constexpr):
  """Computes the scores of a tile, float32."""
  h = tl.arange(0, F[0])
  place = s.to(tl.int64)[None, :] * K * H + h[:, None]
  key = tl.load(k + place, mask=live[None, :] & (h < H)[:, None], other=0)
  two = tl.load(k_scale + s, mask=live, other=0.0)
  lost = tl.load(bias + s, mask=live, other=0.0)
  product = tl.dot(query, key, out_dtype=tl.int32).to(tl.float32)
  unit = one[:, None] * two[None, :]
  lost = tl.broadcast_to(lost[None, :], unit.shape)
  if F[1]:
    some = unit > 0.0
    whole = _rounded(lost / tl.where(some, unit, 1.0))
    return tl.where(some, (product + whole) * unit, lost)
  else:
    return product * unit + lost


@triton.jit
def select_kernel(
  q,
  k,
  q_scale,
  k_scale,
  bias,
  least,
  last,
  T,
  Q,
  S,
  batches,
  out,
  N: tl.constexpr,
  K: tl.constexpr,
  H: tl.constexpr,
  WIDTH: tl.constexpr,
  ROWS: tl.constexpr,
  COLUMNS: tl.constexpr,
  BLOCK_Q: tl.constexpr,
  BLOCK_K: tl.constexpr,
  ROUNDED: tl.constexpr,
):
  """Writes which candidates pass, out (B, N, Q, S) int8; grid (Q B N)."""
  F: tl.constexpr = (WIDTH, ROUNDED)
  BLOCKS: tl.constexpr = COLUMNS // BLOCK_K
  program = tl.program_id(0)
  i = Q - 1 - program % Q  # long rows first
  head = (program // Q).to(tl.int64)
  b, n = head // N, head % N
  owner = b * K + n // (N // K)
  row, h = tl.arange(0, ROWS), tl.arange(0, WIDTH)
  t = i * BLOCK_Q + row
  real = (row < BLOCK_Q) & (t < T)
  place = (b * T + t.to(tl.int64))[:, None] * N * H + n * H + h[None, :]
  query = tl.load(q + place, mask=real[:, None] & (h < H)[None, :], other=0)
  one = tl.load(q_scale + head * T + t, mask=real, other=0.0)
  bound = tl.load(least + head * T + t, mask=real, other=float("inf"))
  k += b * T * K * H + n // (N // K) * H
  k_scale += owner * T
  bias += head * T
  out += (head * Q + i) * S
  final = tl.load(last + (b % batches) * Q + i)
  number = tl.arange(0, BLOCKS)
  end = ((final + 1) * BLOCK_K).to(tl.int32)
  for start in range(0, T, COLUMNS):
    s = start + tl.arange(0, COLUMNS)
    block = start // BLOCK_K + number
    # A tile of no candidates costs its store alone.
    passes = tl.zeros([BLOCKS], tl.int1)
    if start < end:
      live = s < T
      score = _scores(query, one, k, k_scale, bias, s, live, K, H, F)
      excess = tl.max(tl.where(score > bound[:, None], 1, 0), 0)
      most = tl.max(tl.reshape(excess, (BLOCKS, BLOCK_K)), 1)
      passes = (most > 0) & (block >= 1) & (block <= final)
    tl.store(out + block, passes.to(tl.int8), mask=block < S)
