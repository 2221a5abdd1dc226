# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The backward kernel of keys and values: dk, dv, and operands along keys.

A program holds a block of keys of one head and walks the queries of all heads that
read it: the sums over the group need no second pass and no atomic operations.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import parts
from pallas_kernels.flash.triton_gpu.forward_kernel import entry, exponents


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
  """The state (dk, dv, sums of operands) after one tile of queries."""
  q, g, lse, delta = rows
  dk, dv, sums = state
  SIZE: tl.constexpr = F.masked if MASKED else F.block_q
  t = block * SIZE + tl.arange(0, SIZE)
  live = t < T if F.ragged else None
  s, t_ = s[:, None], t[None, :]
  query = parts.load(q, t, live, F.N, F.h)
  raw = parts.outer(key, query, F.h, F.precision)
  x = exponents(raw, b, n, t_, s, T, S, operands, F)
  weight = tl.exp2(x * F.unit - tl.load(lse + t)[None, :])
  seen = None
  if MASKED and F.seen is not None:
    seen = F.seen(b, n, t_, s, T, S, operands)
    if F.ragged:
      seen = seen & (t_ < T)
  elif F.ragged and (F.score is not None or F.keep is not None):
    # lse = +inf ends these queries, unless the program makes NaN of what they hold.
    seen = t_ < T
  if seen is not None:
    weight = tl.where(seen, weight, 0.0)
  grad = parts.load(g, t, live, F.N, F.v)
  keep = None
  if F.keep is not None:
    keep = F.keep(b, n, t_, s, T, S, operands)
  if F.want_v:
    kept = weight if F.keep is None else weight * keep
    dv = parts.add(dv, kept, grad, F.v, F.precision)
  if F.want_k:
    product = parts.outer(value, grad, F.v, F.precision)
    kept = product if F.keep is None else keep * product
    dscore = weight * (kept - tl.load(delta + t)[None, :])
    if F.pull is not None:
      dkeep = weight * product
      dscore, sums = F.pull(
        raw * F.scale, dscore, dkeep, seen, sums, None, b, n, t_, s, T, S, operands
      )
    dk = parts.add(dk, dscore, query, F.h, F.precision)
  return dk, dv, sums


@triton.jit
def keys_kernel(
  q,
  k,
  v,
  g,
  lse,
  delta,
  index,
  full,
  count,
  operands,
  T,
  S,
  dk,
  dv,
  sums,
  F: tl.constexpr,
):
  """Grid (key blocks, B K).

  lse and delta as in the queries' kernel; sums: (operands along keys, B, N, S), over
  queries. Without F.want_k or F.want_v that output is not written: for wide heads two
  launches, each with one accumulator, need fewer registers.
  """
  i = tl.program_id(0)
  b, head = (
    (tl.program_id(1) // F.K).to(tl.int64),
    (tl.program_id(1) % F.K).to(tl.int64),
  )
  s = i * F.block_k + tl.arange(0, F.block_k)
  place = b * S * F.K + head
  key = parts.load(k + place * F.h.size, s, s < S, F.K, F.h)
  value, sum_k, sum_v = None, None, None
  if F.want_k:
    value = parts.load(v + place * F.v.size, s, s < S, F.K, F.v)
    sum_k = parts.zeros(F.block_k, F.h)
  if F.want_v:
    sum_v = parts.zeros(F.block_k, F.v)
  for member in range(F.N // F.K):
    n = head * (F.N // F.K) + member
    first, statistic = b * T * F.N + n, (b * F.N + n) * F.queries
    rows = (
      q + first * F.h.size,
      g + first * F.v.size,
      lse + statistic,
      delta + statistic,
    )
    row = (b * F.row_b + n * F.row_n) * tl.num_programs(0) + i
    entries = index + row * F.most
    whole, visited = tl.load(full + row), tl.load(count + row)
    state = sum_k, sum_v, F.start(F.block_k) if F.start is not None else ()
    block = entry(entries, 0, F.most, F.steps)
    for j in range(whole * F.steps):
      following = entry(entries, j + 1, F.most, F.steps)
      state = _visit(key, value, rows, block, state, b, n, s, T, S, operands, F, False)
      block = following
    block = entry(entries, whole * F.masked_steps, F.most, F.masked_steps)
    for j in range(whole * F.masked_steps, visited * F.masked_steps):
      following = entry(entries, j + 1, F.most, F.masked_steps)
      state = _visit(key, value, rows, block, state, b, n, s, T, S, operands, F, True)
      block = following
    sum_k, sum_v, over_queries = state
    if F.finish is not None:
      F.finish(sums + (b * F.N + n) * S, s, s < S, over_queries)
  if F.want_k:
    parts.store(dk + place * F.h.size, s, s < S, sum_k, F.scale, F.K, F.h)
  if F.want_v:
    parts.store(dv + place * F.v.size, s, s < S, sum_v, 1.0, F.K, F.v)
