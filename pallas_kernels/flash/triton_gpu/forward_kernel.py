# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The forward kernel: one program a block of queries of one head.

Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over the key blocks of a
schedule, as in FlashAttention-2 (Dao 2023, arXiv:2307.08691). Exponentials are of base
2: the factor log2(e) is one with the scale where no program stands between them.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import parts

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def entry(index, j, MOST: tl.constexpr, STEPS: tl.constexpr):
  """The tile of step j: each block of the schedule is walked in STEPS tiles."""
  return tl.load(index + tl.minimum(j // STEPS, MOST - 1)) * STEPS + j % STEPS


@triton.jit
def exponents(raw, b, n, t, s, T, S, operands, F: tl.constexpr):
  """Scores of which F.unit times is the exponent of 2."""
  if F.score is not None:
    score = F.score(raw * F.scale, b, n, t, s, T, S, operands)
    return tl.broadcast_to(score, raw.shape)
  elif F.folded:
    return raw
  else:
    return raw * F.scale


@triton.jit
def _visit(
  query,
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
  """The state (row maxima, row sums, accumulators) after one tile of keys."""
  top, total, acc = state
  SIZE: tl.constexpr = F.masked if MASKED else F.block_k
  s = block * SIZE + tl.arange(0, SIZE)
  live = s < S if MASKED and F.ragged else None
  rows, columns = t[:, None], s[None, :]
  key = parts.load(k, s, live, F.K, F.h)
  raw = parts.outer(query, key, F.h, F.precision)
  x = exponents(raw, b, n, rows, columns, T, S, operands, F)
  if MASKED:
    if F.seen is not None:
      seen = F.seen(b, n, rows, columns, T, S, operands)
      x = tl.where(seen, x, float("-inf"))
    if F.ragged:
      x = tl.where(columns < S, x, float("-inf"))
  new = tl.maximum(top, tl.max(x, 1))
  pivot = new
  if MASKED or F.score is not None:
    pivot = tl.where(new == float("-inf"), 0.0, new)
  weight = tl.exp2(x * F.unit - (pivot * F.unit)[:, None])
  decay = tl.exp2((top - pivot) * F.unit)
  total = total * decay + tl.sum(weight, 1)
  if F.keep is not None:
    weight = weight * F.keep(b, n, rows, columns, T, S, operands)
  value = parts.load(v, s, live, F.K, F.v)
  acc = parts.add(parts.scaled(acc, decay, F.v), weight, value, F.v, F.precision)
  return new, total, acc


@triton.jit
def forward_kernel(
  q, k, v, sinks, index, full, count, operands, T, S, out, lse, F: tl.constexpr
):
  """Grid (query blocks, B N); out (B, T, N, V), lse (B, T, N).

  The last blocks go first: under a causal mask they have most to do.
  """
  i = tl.num_programs(0) - 1 - tl.program_id(0)
  b, n = (tl.program_id(1) // F.N).to(tl.int64), (tl.program_id(1) % F.N).to(tl.int64)
  q += (b * T * F.N + n) * F.h.size
  out += (b * T * F.N + n) * F.v.size
  k += (b * S * F.K + n // (F.N // F.K)) * F.h.size
  v += (b * S * F.K + n // (F.N // F.K)) * F.v.size
  row = (b * F.row_b + n * F.row_n) * tl.num_programs(0) + i
  index += row * F.most
  whole, visited = tl.load(full + row), tl.load(count + row)
  t = i * F.block_q + tl.arange(0, F.block_q)
  query = parts.load(q, t, t < T, F.N, F.h)
  top = tl.full([F.block_q], float("-inf"), tl.float32)
  total = tl.zeros([F.block_q], tl.float32)
  state = top, total, parts.zeros(F.block_q, F.v)
  block = entry(index, 0, F.most, F.steps)
  for j in range(whole * F.steps):
    # The next block's number is read a trip ahead: its address waits for nothing.
    following = entry(index, j + 1, F.most, F.steps)
    state = _visit(query, k, v, block, state, b, n, t, T, S, operands, F, False)
    block = following
  block = entry(index, whole * F.masked_steps, F.most, F.masked_steps)
  for j in range(whole * F.masked_steps, visited * F.masked_steps):
    following = entry(index, j + 1, F.most, F.masked_steps)
    state = _visit(query, k, v, block, state, b, n, t, T, S, operands, F, True)
    block = following
  top, total, acc = state
  top *= F.unit
  factor = tl.where(total == 0.0, 0.0, 1.0 / total)
  if sinks is not None:
    sink = tl.load(sinks + n) * LOG2E
    pivot = tl.maximum(top, sink)
    pivot = tl.where(pivot == float("-inf"), 0.0, pivot)
    shrink = tl.exp2(top - pivot)
    total = total * shrink + tl.exp2(sink - pivot)
    factor = tl.where(total == 0.0, 0.0, shrink / total)
    top = pivot
  parts.store(out, t, t < T, acc, factor[:, None], F.N, F.v)
  sums = (top + tl.log2(total)) / LOG2E
  tl.store(lse + (b * T * F.N + n) + t * F.N, sums, mask=t < T)
