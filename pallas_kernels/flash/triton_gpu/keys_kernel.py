# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The backward kernel of keys and values: dk, dv, and operands along keys.

A program holds a block of keys of one head and walks the queries of all heads that
read it: the sums over the group need no second pass and no atomic operations.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import blocks, head_tiles
from pallas_kernels.flash.triton_gpu.forward_kernel import scores, weights


@triton.jit
def _visit(
  key,
  value,
  rows,
  block,
  state,
  b,
  n,
  s,
  T,
  S,
  operands,
  F: tl.constexpr,
  MASKED: tl.constexpr,
):
  """Updates the state (dk, dv, sums of operands) by one tile of queries."""
  q, g, top, low, delta = rows
  dk, dv, sums = state
  SIZE: tl.constexpr = F.masked if MASKED else F.block_q
  t = block * SIZE + tl.arange(0, SIZE)
  live = t < T if F.ragged else None
  below = tl.load(low + t)
  if MASKED and F.seen is not None:
    # Queries whose statistics are NaN must not reach keys that they do not see.
    live = below == below if live is None else live & (below == below)
  s, t_ = s[:, None], t[None, :]
  query = head_tiles.load(q, t, live, F.N, F.h)
  grad = head_tiles.load(g, t, live, F.N, F.v)
  raw = head_tiles.outer(key, query, F.h, F.precision)
  x = scores(raw, b, n, t_, s, T, S, operands, F)
  weight = weights(raw, x, tl.load(top + t)[None, :], below[None, :], F)
  seen = None
  if MASKED and F.seen is not None:
    seen = F.seen(b, n, t_, s, T, S, operands)
    if F.ragged:
      seen = seen & (t_ < T)
  elif F.ragged and (F.score is not None or F.keep is not None):
    # low = +inf gives these queries no weight, unless the program makes them NaN.
    seen = t_ < T
  if seen is not None:
    weight = tl.where(seen, weight, 0.0)
  keep = None
  if F.keep is not None:
    keep = F.keep(b, n, t_, s, T, S, operands)
  if F.want_v:
    kept = weight if F.keep is None else weight * keep
    dv = head_tiles.add(dv, kept, grad, F.v, F.precision)
  if F.want_k:
    product = head_tiles.outer(value, grad, F.v, F.precision)
    kept = product if F.keep is None else keep * product
    dscore = weight * (kept - tl.load(delta + t)[None, :])
    if F.pull is not None:
      dkeep = weight * product
      dscore, sums = F.pull(
        raw * F.scale, dscore, dkeep, seen, sums, b, n, t_, s, T, S, operands
      )
    elif seen is not None:
      dscore = tl.where(seen, dscore, 0.0)
    dk = head_tiles.add(dk, dscore, query, F.h, F.precision)
  return dk, dv, sums


@triton.jit
def keys_kernel(
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
  dk,
  dv,
  sums,
  F: tl.constexpr,
):
  """Computes dk, dv and sums over queries; grid (B K key blocks).

  top, low and delta are as in `queries_kernel`; sums: (operands along keys, B, N, S).
  dk is written only with F.want_k, dv only with F.want_v: for wide heads two launches,
  each with one accumulator, need fewer registers.
  """
  i, b, head, count_k = blocks.place(S, F.block_k, F.K)
  S = blocks.aligned(S, F.even)
  first, place = i * F.block_k, tl.arange(0, F.block_k)
  s = first + place
  row = b * S * F.K + head + first.to(tl.int64) * F.K
  key = head_tiles.load(k + row * F.h.size, place, s < S, F.K, F.h)
  value, sum_k, sum_v = None, None, None
  if F.want_k:
    value = head_tiles.load(v + row * F.v.size, place, s < S, F.K, F.v)
    sum_k = head_tiles.zeros(F.block_k, F.h)
  if F.want_v:
    sum_v = head_tiles.zeros(F.block_k, F.v)
  most = rows[0]
  for member in range(F.N // F.K):
    n = head * (F.N // F.K) + member
    line, statistic = b * T * F.N + n, (b * F.N + n) * length
    walked = (
      q + line * F.h.size,
      g + line * F.v.size,
      top + statistic,
      low + statistic,
      delta + statistic,
    )
    entries, whole, visited = blocks.lists(index, full, count, b, n, i, count_k, rows)
    state = sum_k, sum_v, F.start(F.block_k) if F.start is not None else ()
    block = blocks.entry(entries, 0, most, F.steps)
    for j in range(whole * F.steps):
      following = blocks.entry(entries, j + 1, most, F.steps)
      state = _visit(
        key, value, walked, block, state, b, n, s, T, S, operands, F, False
      )
      block = following
    block = blocks.entry(entries, whole * F.masked_steps, most, F.masked_steps)
    for j in tl.range(
      whole * F.masked_steps, visited * F.masked_steps, num_stages=F.masked_stages
    ):
      following = blocks.entry(entries, j + 1, most, F.masked_steps)
      state = _visit(key, value, walked, block, state, b, n, s, T, S, operands, F, True)
      block = following
    sum_k, sum_v, over_queries = state
    if F.finish is not None:
      lines = (tl.num_programs(0) // count_k).to(tl.int64) * (F.N // F.K)
      F.finish(sums + (b * F.N + n) * S, lines * S, s, s < S, over_queries)
  # Recomputed indices, else those of the loads occupy registers through the loops.
  place += tl.minimum(T, 0)
  s = first + place
  if F.want_k:
    head_tiles.store(dk + row * F.h.size, place, s < S, sum_k, F.scale, F.K, F.h)
  if F.want_v:
    head_tiles.store(dv + row * F.v.size, place, s < S, sum_v, 1.0, F.K, F.v)
