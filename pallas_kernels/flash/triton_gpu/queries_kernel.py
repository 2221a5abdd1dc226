# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The backward kernel of queries: dq, and the gradients of operands along queries.

The weights are computed again from lse (Dao et al. 2022, arXiv:2205.14135, equation 4).
Sums stay in registers and each output has one writer, so two runs are bit-equal.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import parts
from pallas_kernels.flash.triton_gpu.forward_kernel import entry, exponents


@triton.jit
def _visit(
  rows,
  k,
  v,
  block,
  state,
  cells,
  b,
  n,
  t,
  T,
  S,
  operands,
  F: tl.constexpr,
  MASKED: tl.constexpr,
):
  """The state (dq, sums of operands) after one tile of keys."""
  query, grad, lse, delta = rows
  dq, sums = state
  SIZE: tl.constexpr = F.masked if MASKED else F.block_k
  s = block * SIZE + tl.arange(0, SIZE)
  live = s < S if MASKED and F.ragged else None
  t, s_ = t[:, None], s[None, :]
  key = parts.load(k, s, live, F.K, F.h)
  raw = parts.outer(query, key, F.h, F.precision)
  x = exponents(raw, b, n, t, s_, T, S, operands, F)
  weight = tl.exp2(x * F.unit - lse[:, None])
  seen = None
  if MASKED and F.seen is not None:
    seen = F.seen(b, n, t, s_, T, S, operands)
    if F.ragged:
      seen = seen & (s_ < S)
  elif MASKED and F.ragged:
    seen = s_ < S
  if seen is not None:
    weight = tl.where(seen, weight, 0.0)
  value = parts.load(v, s, live, F.K, F.v)
  product = parts.outer(grad, value, F.v, F.precision)
  if F.keep is None:
    dscore = weight * (product - delta[:, None])
  else:
    keep = F.keep(b, n, t, s_, T, S, operands)
    dscore = weight * (keep * product - delta[:, None])
  if F.pull is not None:
    dkeep = weight * product
    dscore, sums = F.pull(
      raw * F.scale, dscore, dkeep, seen, sums, cells, b, n, t, s_, T, S, operands
    )
  return parts.add(dq, dscore, key, F.h, F.precision), sums


@triton.jit
def _clear(cells, t, T, S, F: tl.constexpr):
  """Zeros in this program's rows of the tiles' gradients."""
  for first in range(0, S, F.block_k):
    for c in tl.static_range(F.cells):
      s = first + tl.arange(0, F.block_k)
      tl.store(
        cells + c * F.apart + t[:, None] * S + s[None, :],
        tl.zeros([F.block_q, F.block_k], tl.float32),
        mask=(t < T)[:, None] & (s < S)[None, :],
      )
  # Other threads write the visited tiles: they come after the zeros.
  tl.debug_barrier()


@triton.jit
def queries_kernel(
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
  dq,
  sums,
  cells,
  F: tl.constexpr,
):
  """Grid (query blocks, B N).

  lse and delta are (B, N, F.queries), lse in base 2 and +inf where a row has no weight.
  sums: (operands along queries, B, N, T), over keys; cells: (F.cells, B, N, T, S).
  """
  i = tl.num_programs(0) - 1 - tl.program_id(0)
  b, n = (tl.program_id(1) // F.N).to(tl.int64), (tl.program_id(1) % F.N).to(tl.int64)
  k += (b * S * F.K + n // (F.N // F.K)) * F.h.size
  v += (b * S * F.K + n // (F.N // F.K)) * F.v.size
  row = (b * F.row_b + n * F.row_n) * tl.num_programs(0) + i
  index += row * F.most
  whole, visited = tl.load(full + row), tl.load(count + row)
  t = i * F.block_q + tl.arange(0, F.block_q)
  head = b * T * F.N + n
  query = parts.load(q + head * F.h.size, t, t < T, F.N, F.h)
  grad = parts.load(g + head * F.v.size, t, t < T, F.N, F.v)
  statistic = (b * F.N + n) * F.queries + t
  rows = query, grad, tl.load(lse + statistic), tl.load(delta + statistic)
  state = parts.zeros(F.block_q, F.h), F.start(F.block_q) if F.start is not None else ()
  if F.cells > 0:
    cells += (b * F.N + n) * T * S
    if visited * F.steps * F.block_k < S:
      _clear(cells, t, T, S, F)
  block = entry(index, 0, F.most, F.steps)
  for j in range(whole * F.steps):
    following = entry(index, j + 1, F.most, F.steps)
    state = _visit(rows, k, v, block, state, cells, b, n, t, T, S, operands, F, False)
    block = following
  block = entry(index, whole * F.masked_steps, F.most, F.masked_steps)
  for j in range(whole * F.masked_steps, visited * F.masked_steps):
    following = entry(index, j + 1, F.most, F.masked_steps)
    state = _visit(rows, k, v, block, state, cells, b, n, t, T, S, operands, F, True)
    block = following
  parts.store(dq + head * F.h.size, t, t < T, state[0], F.scale, F.N, F.h)
  if F.finish is not None:
    F.finish(sums + (b * F.N + n) * T, t, t < T, state[1])
