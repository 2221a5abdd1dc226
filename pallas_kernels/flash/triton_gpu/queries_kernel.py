# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The backward kernel of queries: dq, and the gradients of operands along queries.

The weights are recomputed (Dao et al. 2022, arXiv:2205.14135, equation 4).
Sums stay in registers and each output has one writer, so two runs are bit-equal.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import blocks, head_tiles
from pallas_kernels.flash.triton_gpu.forward_kernel import scores, weights


@triton.jit
def _visit(
  rows,
  k,
  v,
  block,
  state,
  b,
  n,
  t,
  T,
  S,
  operands,
  F: tl.constexpr,
  MASKED: tl.constexpr,
):
  """Updates the state (dq, sums of operands) by one tile of keys."""
  query, grad, top, low, delta = rows
  dq, sums = state
  SIZE: tl.constexpr = F.masked if MASKED else F.block_k
  s = block * SIZE + tl.arange(0, SIZE)
  live = s < S if MASKED and F.ragged else None
  t, s_ = t[:, None], s[None, :]
  key = head_tiles.load(k, s, live, F.K, F.h)
  value = head_tiles.load(v, s, live, F.K, F.v)
  if MASKED and F.seen is not None:
    key = head_tiles.clean(key, head_tiles.sick(key, F.h), F.h)
    value = head_tiles.clean(value, head_tiles.sick(value, F.v), F.v)
  raw = head_tiles.outer(query, key, F.h, F.precision)
  x = scores(raw, b, n, t, s_, T, S, operands, F)
  weight = weights(raw, x, top[:, None], low[:, None], F)
  seen = None
  if MASKED and F.seen is not None:
    seen = F.seen(b, n, t, s_, T, S, operands)
    if F.ragged:
      seen = seen & (s_ < S)
  elif MASKED and F.ragged:
    seen = s_ < S
  if seen is not None:
    weight = tl.where(seen, weight, 0.0)
  product = head_tiles.outer(grad, value, F.v, F.precision)
  if F.keep is None:
    dscore = weight * (product - delta[:, None])
  else:
    keep = F.keep(b, n, t, s_, T, S, operands)
    dscore = weight * (keep * product - delta[:, None])
  if F.pull is not None:
    dkeep = weight * product
    dscore, sums = F.pull(
      raw * F.scale, dscore, dkeep, seen, sums, b, n, t, s_, T, S, operands
    )
  elif seen is not None:
    # Where delta is NaN, so is its product with a weight of 0.
    dscore = tl.where(seen, dscore, 0.0)
  return head_tiles.add(dq, dscore, key, F.h, F.precision), sums


@triton.jit
def queries_kernel(
  q,
  k,
  v,
  g,
  top,
  low,
  delta,
  index,
  full,
  count,
  operands,
  T,
  S,
  rows,
  length,
  dq,
  sums,
  F: tl.constexpr,
):
  """Computes dq and sums over keys; grid (B N query blocks).

  top (divided by 128), low (log2 of total, +inf where a row has no weight) and delta:
  (B, N, length). sums: (operands along queries, B, N, T).
  """
  i, b, n, count_q = blocks.place(T, F.block_q, F.N)
  i = count_q - 1 - i
  S = blocks.aligned(S, F.even)
  k += (b * S * F.K + n // (F.N // F.K)) * F.h.size
  v += (b * S * F.K + n // (F.N // F.K)) * F.v.size
  index, whole, visited = blocks.lists(index, full, count, b, n, i, count_q, rows)
  first, place = i * F.block_q, tl.arange(0, F.block_q)
  t = first + place
  row = b * T * F.N + n + first.to(tl.int64) * F.N
  query = head_tiles.load(q + row * F.h.size, place, t < T, F.N, F.h)
  grad = head_tiles.load(g + row * F.v.size, place, t < T, F.N, F.v)
  statistic = (b * F.N + n) * length + t
  held = (
    query,
    grad,
    tl.load(top + statistic),
    tl.load(low + statistic),
    tl.load(delta + statistic),
  )
  state = (
    head_tiles.zeros(F.block_q, F.h),
    F.start(F.block_q) if F.start is not None else (),
  )
  most = rows[0]
  block = blocks.entry(index, 0, most, F.steps)
  for j in range(whole * F.steps):
    following = blocks.entry(index, j + 1, most, F.steps)
    state = _visit(held, k, v, block, state, b, n, t, T, S, operands, F, False)
    block = following
  block = blocks.entry(index, whole * F.masked_steps, most, F.masked_steps)
  for j in tl.range(
    whole * F.masked_steps, visited * F.masked_steps, num_stages=F.masked_stages
  ):
    following = blocks.entry(index, j + 1, most, F.masked_steps)
    state = _visit(held, k, v, block, state, b, n, t, T, S, operands, F, True)
    block = following
  head_tiles.store(dq + row * F.h.size, place, t < T, state[0], F.scale, F.N, F.h)
  if F.finish is not None:
    lines = (tl.num_programs(0) // count_q).to(tl.int64)
    F.finish(sums + (b * F.N + n) * T, lines * T, t, t < T, state[1])
