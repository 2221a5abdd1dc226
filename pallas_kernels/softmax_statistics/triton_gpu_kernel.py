# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernels: a block of keys walks its queries, a block of queries its keys.

They are the loops of `flash.triton_gpu.keys_kernel` and `forward_kernel` without
products with values: a tile is one product, and sums and maxima of its rows. lse is
+inf for queries without weight, and for the padding behind the last one.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import blocks, head_tiles
from pallas_kernels.flash.triton_gpu.forward_kernel import scores

LOG2E = tl.constexpr(1.4426950408889634)
# Greater than any index of a key.
NONE = tl.constexpr(2147483647)


@triton.jit
def _scaled(raw, b, n, t, s, T, S, operands, F: tl.constexpr):
  """Computes the scores in nats."""
  x = scores(raw, b, n, t, s, T, S, operands, F)
  if F.folded:
    x = x * F.scale
  return x


@triton.jit
def _queries(
  key, q, lse, block, total, b, n, s, T, S, operands, F: tl.constexpr, M: tl.constexpr
):
  """Adds the weights of a tile of queries to the sums of its keys."""
  SIZE: tl.constexpr = F.masked if M else F.block_q
  t = block * SIZE + tl.arange(0, SIZE)
  live = t < T if F.ragged else None
  query = head_tiles.load(q, t, live, F.N, F.h)
  raw = head_tiles.outer(key, query, F.h, F.precision)
  s, t = s[:, None], t[None, :]
  x = _scaled(raw, b, n, t, s, T, S, operands, F)
  below = tl.load(lse + block * SIZE + tl.arange(0, SIZE))
  weight = tl.exp2((x - below[None, :]) * LOG2E)
  if M and F.seen is not None:
    seen = F.seen(b, n, t, s, T, S, operands)
    weight = tl.where(seen, weight, 0.0)
  if F.ragged:
    weight = tl.where(t < T, weight, 0.0)
  return total + tl.sum(weight, 1)


@triton.jit
def columns_kernel(
  q, k, lse, index, full, count, operands, T, S, rows, length, out, F: tl.constexpr
):
  """Computes sums of weights, out (B, N, S); grid (B N key blocks)."""
  i, b, n, count_k = blocks.place(S, F.block_k, F.N)
  S = blocks.aligned(S, F.even)
  first, place = i * F.block_k, tl.arange(0, F.block_k)
  s = first + place
  row = b * S * F.K + n // (F.N // F.K) + first.to(tl.int64) * F.K
  key = head_tiles.load(k + row * F.h.size, place, s < S, F.K, F.h)
  q += (b * T * F.N + n) * F.h.size
  lse += (b * F.N + n) * length
  entries, whole, visited = blocks.lists(index, full, count, b, n, i, count_k, rows)
  most, total = rows[0], tl.zeros([F.block_k], tl.float32)
  for j in range(whole * F.steps):
    block = blocks.entry(entries, j, most, F.steps)
    total = _queries(key, q, lse, block, total, b, n, s, T, S, operands, F, False)
  for j in range(whole * F.masked_steps, visited * F.masked_steps):
    block = blocks.entry(entries, j, most, F.masked_steps)
    total = _queries(key, q, lse, block, total, b, n, s, T, S, operands, F, True)
  tl.store(out + (b * F.N + n) * S + s, total, mask=s < S)


@triton.jit
def _keys(
  query, k, lse, block, state, b, n, t, T, S, operands, F: tl.constexpr, M: tl.constexpr
):
  """Updates (greatest score, its key, entropy) of rows by a tile of keys."""
  top, best, entropy = state
  SIZE: tl.constexpr = F.masked if M else F.block_k
  s = block * SIZE + tl.arange(0, SIZE)
  live = s < S if M and F.ragged else None
  key = head_tiles.load(k, s, live, F.K, F.h)
  raw = head_tiles.outer(query, key, F.h, F.precision)
  t, columns = t[:, None], s[None, :]
  x = _scaled(raw, b, n, t, columns, T, S, operands, F)
  if M and F.seen is not None:
    x = tl.where(F.seen(b, n, t, columns, T, S, operands), x, float("-inf"))
  if M and F.ragged:
    x = tl.where(columns < S, x, float("-inf"))
  below = x - lse[:, None]
  weight = tl.exp2(below * LOG2E)
  entropy += tl.sum(tl.where(weight == 0.0, 0.0, weight * -below), 1)
  new = tl.max(x, 1)
  own = tl.min(tl.where(x == new[:, None], columns, NONE), 1)
  # Lists are not in the order of keys: the first of equal ones is the least.
  own = tl.where(new == float("-inf"), NONE, own)
  best = tl.where(new > top, own, tl.where(new == top, tl.minimum(own, best), best))
  return tl.maximum(top, new), best, entropy


@triton.jit
def rows_kernel(
  q,
  k,
  lse,
  index,
  full,
  count,
  operands,
  T,
  S,
  rows,
  length,
  argmax,
  out,
  F: tl.constexpr,
):
  """Computes argmax and entropy, each (B, T, N); grid (B N query blocks)."""
  i, b, n, count_q = blocks.place(T, F.block_q, F.N)
  i = count_q - 1 - i
  S = blocks.aligned(S, F.even)
  first, place = i * F.block_q, tl.arange(0, F.block_q)
  t = first + place
  row = b * T * F.N + n + first.to(tl.int64) * F.N
  k += (b * S * F.K + n // (F.N // F.K)) * F.h.size
  entries, whole, visited = blocks.lists(index, full, count, b, n, i, count_q, rows)
  query = head_tiles.load(q + row * F.h.size, place, t < T, F.N, F.h)
  below = tl.load(lse + (b * F.N + n) * length + t, mask=t < T, other=float("inf"))
  most = rows[0]
  top = tl.full([F.block_q], float("-inf"), tl.float32)
  best = tl.full([F.block_q], NONE, tl.int32)
  state = top, best, tl.zeros([F.block_q], tl.float32)
  for j in range(whole * F.steps):
    block = blocks.entry(entries, j, most, F.steps)
    state = _keys(query, k, below, block, state, b, n, t, T, S, operands, F, False)
  for j in range(whole * F.masked_steps, visited * F.masked_steps):
    block = blocks.entry(entries, j, most, F.masked_steps)
    state = _keys(query, k, below, block, state, b, n, t, T, S, operands, F, True)
  statistic = row + place.to(tl.int64) * F.N
  found = tl.where(state[1] == NONE, -1, state[1])
  tl.store(argmax + statistic, found, mask=t < T)
  tl.store(out + statistic, state[2], mask=t < T)
