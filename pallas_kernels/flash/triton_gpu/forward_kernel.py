# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The forward kernel: one program a block of queries of one head.

Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over the key blocks of a
schedule, as in FlashAttention-2 (Dao 2023, arXiv:2307.08691). Exponentials are of base
2: the factor log2(e) is folded into the scale where no score function intervenes.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import blocks, head_tiles

LOG2E = tl.constexpr(1.4426950408889634)
# Exponents below it are exact: the spacing of floats there is at most 8.
_NEAR = tl.constexpr(134217728.0)


@triton.jit
def scores(raw, b, n, t, s, T, S, operands, F: tl.constexpr):
  """Computes scores from raw products; returns these unscaled where F.folded."""
  if F.score is not None:
    score = F.score(raw * F.scale, b, n, t, s, T, S, operands)
    return tl.broadcast_to(score, raw.shape)
  elif F.folded:
    return raw
  else:
    return raw * F.scale


@triton.jit
def powers(top, F: tl.constexpr):
  """Returns rows' (top or 0, unit, base), where 2^(x unit - base) is near 1 at x = top.

  With the single rounding of a fused multiply-add, the exponent is as accurate as if
  the difference were taken first, and costs one instruction, not two. Beyond _NEAR any
  score below top has a negligible weight: the unit, a power of 2, then brings top to
  the scale of _NEAR, where nothing overflows.

  The base is a fused multiply-add of 0: compilers fuse a product into a difference that
  reads it, and the difference of two bases would no longer be that of what was rounded.
  """
  pivot = tl.where(top == float("-inf"), 0.0, top)
  exponent = pivot.to(tl.int32, bitcast=True) >> 23 & 255
  far = ((281 - exponent) << 23).to(tl.float32, bitcast=True)
  unit = tl.where(tl.abs(pivot * F.unit) < _NEAR, F.unit, far)
  return pivot, unit, tl.fma(pivot, unit, 0.0)


@triton.jit
def begun(F: tl.constexpr):
  """Returns the initial state (top, base, total, accumulators) of all rows."""
  zeros = tl.zeros([F.block_q], tl.float32)
  top = tl.full([F.block_q], float("-inf"), tl.float32)
  return top, zeros, zeros, head_tiles.zeros(F.block_q, F.v)


@triton.jit
def ended(state, sink, F: tl.constexpr):
  """Returns (top, total, factor of the accumulators) of rows, with a sink or None.

  top is the greatest score as `weights` recomputes it, or the next float above; total
  is the sum of exp(score - top), 0 for a row that sees nothing.
  """
  most, _, total, _ = state
  top, unit, base = powers(most, F)
  exponent = -tl.fma(top, unit, -base)
  if F.folded:
    raw, near = top, tl.abs(top * F.unit) < _NEAR
    top = raw * F.scale
    # Beyond _NEAR the next float below, so that `weights` clamps equal scores to top.
    step = tl.abs(top) * tl.where(near, 1.1920929e-7, -2.3841858e-7)
    exact = near & (tl.fma(raw, F.scale, -top) <= 0.0)
    top = tl.where(exact, top, top + step)
    exponent += tl.minimum(tl.fma(raw, F.scale, -top), 0.0) * LOG2E
  top = tl.where(most == float("-inf"), most, top)
  if sink is None:
    factor = tl.exp2(exponent)
    total *= factor
  else:
    with_sink = tl.maximum(top, sink)
    pivot = tl.where(with_sink == float("-inf"), 0.0, with_sink)
    factor = tl.exp2(exponent + (top - pivot) * LOG2E)
    total = total * factor + tl.exp2((sink - pivot) * LOG2E)
    top = with_sink
  return top, total, tl.where(total == 0.0, 0.0, factor / total)


@triton.jit
def weights(raw, x, top, low, F: tl.constexpr):
  """Recomputes the weights of scores from rows' (top / 128, log2(total)).

  It subtracts before it scales: the difference of two nearby scores is exact. The
  difference is clamped to [-128, 0], at no cost, by the fused multiply-add itself:
  products may round to more than top in tiles of another size.
  """
  if F.folded:
    below = tl.fma(raw, -F.scale / 128, top)
  else:
    below = tl.fma(x, -0.0078125, top)
  return tl.exp2(tl.fma(tl.clamp(below, 0.0, 1.0), -128 * LOG2E, -low))


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
  """Updates the state (top, base, total, accumulators) by one tile of keys."""
  top, base, total, acc = state
  SIZE: tl.constexpr = F.masked if MASKED else F.block_k
  s = block * SIZE + tl.arange(0, SIZE)
  live = s < S if MASKED and F.ragged else None
  rows, columns = t[:, None], s[None, :]
  key = head_tiles.load(k, s, live, F.K, F.h)
  value = head_tiles.load(v, s, live, F.K, F.v)
  raw = head_tiles.outer(query, key, F.h, F.precision)
  x = scores(raw, b, n, rows, columns, T, S, operands, F)
  if MASKED:
    if F.seen is not None:
      # Queries that see a value that is not finite get NaN, the others a zero.
      sick = head_tiles.sick(value, F.v)
      value = head_tiles.clean(value, sick, F.v)
      seen = F.seen(b, n, rows, columns, T, S, operands)
      x = tl.where(seen, x + sick[None, :], float("-inf"))
    if F.ragged:
      x = tl.where(columns < S, x, float("-inf"))
  new = tl.maximum(top, tl.max(x, 1))
  pivot, unit, next_ = powers(new, F)
  weight = tl.exp2(tl.fma(x, unit[:, None], -next_[:, None]))
  decay = tl.exp2(tl.minimum(base - next_, (top - pivot) * F.unit + 16))
  total = total * decay + tl.sum(weight, 1)
  if F.keep is not None:
    weight = weight * F.keep(b, n, rows, columns, T, S, operands)
  acc = head_tiles.add(
    head_tiles.scaled(acc, decay, F.v), weight, value, F.v, F.precision
  )
  return new, next_, total, acc


@triton.jit
def forward_kernel(
  q,
  k,
  v,
  sinks,
  index,
  full,
  count,
  operands,
  T,
  S,
  rows,
  out,
  top,
  total,
  F: tl.constexpr,
):
  """Computes out (B, T, N, V), top and total (B, T, N); grid (B N query blocks).

  The last blocks go first: under a causal mask they have most to do.
  """
  i, b, n, length = blocks.place(T, F.block_q, F.N)
  i = length - 1 - i
  S = blocks.aligned(S, F.even)
  first, place = i * F.block_q, tl.arange(0, F.block_q)
  t = first + place
  row = b * T * F.N + n + first.to(tl.int64) * F.N
  k += (b * S * F.K + n // (F.N // F.K)) * F.h.size
  v += (b * S * F.K + n // (F.N // F.K)) * F.v.size
  index, whole, visited = blocks.lists(index, full, count, b, n, i, length, rows)
  query = head_tiles.load(q + row * F.h.size, place, t < T, F.N, F.h)
  state, most = begun(F), rows[0]
  block = blocks.entry(index, 0, most, F.steps)
  for j in range(whole * F.steps):
    # The next block's index is read one step ahead, so that its address is ready.
    following = blocks.entry(index, j + 1, most, F.steps)
    state = _visit(query, k, v, block, state, b, n, t, T, S, operands, F, False)
    block = following
  block = blocks.entry(index, whole * F.masked_steps, most, F.masked_steps)
  for j in tl.range(
    whole * F.masked_steps, visited * F.masked_steps, num_stages=F.masked_stages
  ):
    following = blocks.entry(index, j + 1, most, F.masked_steps)
    state = _visit(query, k, v, block, state, b, n, t, T, S, operands, F, True)
    block = following
  sink = None
  if sinks is not None:
    sink = tl.load(sinks + n)
  greatest, sums, factor = ended(state, sink, F)
  head_tiles.store(
    out + row * F.v.size, place, t < T, state[3], factor[:, None], F.N, F.v
  )
  statistic = row + place.to(tl.int64) * F.N
  tl.store(top + statistic, greatest, mask=t < T)
  tl.store(total + statistic, sums, mask=t < T)
