# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernels: chunks of SIZE tokens of a head follow each other in a loop.

The grid (B N, parts, pieces of the value) is of one axis, since CUDA's others end at
65 535. A part has SPAN chunks and is a sequence of its own, from a state of its own.
The difference of a score and the greatest is exact; only it is multiplied by log2(e),
so that the exponential is 2^x. A program holds the state of a piece of WIDTH elements
of one head; the backward kernel goes from the last chunk to the first. Lines are
(B, N, LENGTH), padded to whole parts; first, (B, LENGTH), counts from the first token
of the token's part.
"""

import triton
import triton.language as tl


@triton.jit
def _power(distance):
  return tl.exp2(distance * 1.4426950408889634)


@triton.jit
def _keep(before, sums, top):
  """Returns each row's weight of the state before the chunk, times the row's total."""
  # Where a row sees no state from before, `before` is no lower bound of top.
  return _power(tl.minimum(before - top, 0.0)) * sums


@triton.jit
def _load(array, begin, c, e, T, N: tl.constexpr, E: tl.constexpr):
  """Loads rows begin + c, columns e of a head of (T, N, E); 0 beyond the array."""
  array += tl.cast(begin, tl.int64) * (N * E)  # which may be beyond 2^31
  return tl.load(
    array + c[:, None] * (N * E) + e[None, :],
    mask=(begin + c < T)[:, None] & (e < E)[None, :],
    other=0.0,
  )


@triton.jit
def _store(array, begin, c, e, x, T, N: tl.constexpr, E: tl.constexpr):
  array += tl.cast(begin, tl.int64) * (N * E)
  tl.store(
    array + c[:, None] * (N * E) + e[None, :],
    x.to(array.dtype.element_ty),
    mask=(begin + c < T)[:, None] & (e < E)[None, :],
  )


@triton.jit
def forward_kernel(
  s,
  top,
  share,
  before,
  sums,
  first,
  v,
  start,
  T,
  out,
  last,
  N: tl.constexpr,
  E: tl.constexpr,
  WIDTH: tl.constexpr,
  SIZE: tl.constexpr,
  LENGTH: tl.constexpr,
  SPAN: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes out (B, T, N, E) and its last row (B, N, E); start (parts, B, N, E)."""
  pieces: tl.constexpr = (E + WIDTH - 1) // WIDTH
  parts: tl.constexpr = LENGTH // (SPAN * SIZE)
  piece, place = tl.program_id(0) % pieces, tl.program_id(0) // pieces
  part, line = place % parts, (place // parts).to(tl.int64)
  start += (part * (tl.num_programs(0) // (pieces * parts)) + line) * E
  b, n = line // N, line % N
  skipped = part * (SPAN * SIZE)
  place = line * LENGTH + skipped
  s, top, share = s + place, top + place, share + place
  before, sums = before + place, sums + place
  if first is not None:
    first += b * LENGTH + skipped
  v += ((b * T + skipped) * N + n) * E
  out += ((b * T + skipped) * N + n) * E
  T -= skipped
  e = piece * WIDTH + tl.arange(0, WIDTH)
  c = tl.arange(0, SIZE)
  state = tl.load(start + e, mask=e < E, other=0.0)
  for i in range(SPAN):
    t = i * SIZE + c
    greatest = tl.load(top + t)
    seen = c[None, :] <= c[:, None]
    keep = _keep(tl.load(before + i * SIZE), tl.load(sums + i * SIZE), greatest)
    if first is not None:
      since = tl.load(first + t)
      seen = seen & (since[:, None] <= t[None, :])
      keep = tl.where(since < i * SIZE, keep, 0.0)
    weight = _power(tl.load(s + t)[None, :] - greatest[:, None])
    weight = tl.where(seen, weight, 0.0)
    value = _load(v, i * SIZE, c, e, T, N, E)
    rows = tl.dot(
      weight.to(value.dtype),
      value,
      keep[:, None] * state[None, :],
      input_precision=PRECISION,
    )
    rows *= tl.load(share + t)[:, None]
    _store(out, i * SIZE, c, e, rows, T, N, E)
    state = tl.sum(tl.where((c == SIZE - 1)[:, None], rows, 0.0), 0)
  if part == parts - 1:
    tl.store(last + line * E + e, state, mask=e < E)


@triton.jit
def backward_kernel(
  s,
  top,
  share,
  before,
  sums,
  first,
  v,
  g,
  delta,
  a0,
  b0,
  T,
  ds,
  dv,
  a,
  b,
  N: tl.constexpr,
  E: tl.constexpr,
  WIDTH: tl.constexpr,
  SIZE: tl.constexpr,
  LENGTH: tl.constexpr,
  SPAN: tl.constexpr,
  PRECISION: tl.constexpr,
):
  """Computes dv, and ds and b for each piece of the value, to be summed.

  a0 (parts, B, N, E), b0 (parts, B, N), the first part being that of the last tokens.
  """
  pieces: tl.constexpr = (E + WIDTH - 1) // WIDTH
  parts: tl.constexpr = LENGTH // (SPAN * SIZE)
  piece, place = tl.program_id(0) % pieces, tl.program_id(0) // pieces
  part, line = place % parts, (place // parts).to(tl.int64)
  lines = tl.num_programs(0) // (pieces * parts)
  batch, n = line // N, line % N
  skipped = (parts - 1 - part) * (SPAN * SIZE)
  place = line * LENGTH + skipped
  s, top, share = s + place, top + place, share + place
  before, sums, delta = before + place, sums + place, delta + place
  ds += piece * lines * LENGTH + place
  if first is not None:
    first += batch * LENGTH + skipped
  row = ((batch * T + skipped) * N + n) * E
  v, g, dv = v + row, g + row, dv + row
  T -= skipped
  e = piece * WIDTH + tl.arange(0, WIDTH)
  c = tl.arange(0, SIZE)
  # Terms that do not depend on the value are added by the first piece.
  once = tl.where(piece == 0, 1.0, 0.0)
  own = tl.load(a0 + (part * lines + line) * E + e, mask=e < E, other=0.0)
  total = tl.load(b0 + part * lines + line) * once
  for j in range(SPAN):
    begin = (SPAN - 1 - j) * SIZE
    t = begin + c
    score, greatest, part_of = tl.load(s + t), tl.load(top + t), tl.load(share + t)
    slope = tl.load(delta + t) * once
    end = tl.load(top + begin + SIZE - 1)
    part_of_end = tl.load(share + begin + SIZE - 1)
    prior, often = tl.load(before + begin), tl.load(sums + begin)
    seen = c[:, None] <= c[None, :]
    tail = _power(score - end) * part_of_end
    into = _keep(prior, often, greatest) * part_of
    through = _keep(prior, often, end) * part_of_end
    if first is not None:
      since = tl.load(first + t)
      latest = tl.load(first + begin + SIZE - 1)
      seen = seen & (since[None, :] <= t[:, None])
      tail = tl.where(latest <= t, tail, 0.0)
      into = tl.where(since < begin, into, 0.0)
      through = tl.where(latest < begin, through, 0.0)
    # (column, row)
    weight = _power(score[:, None] - greatest[None, :])
    weight = tl.where(seen, weight, 0.0) * part_of[None, :]
    grad = _load(g, begin, c, e, T, N, E)
    dvalue = tl.dot(
      weight.to(grad.dtype),
      grad,
      tail[:, None] * own[None, :],
      input_precision=PRECISION,
    )
    _store(dv, begin, c, e, dvalue, T, N, E)
    terms = tl.sum(_load(v, begin, c, e, T, N, E).to(tl.float32) * dvalue, 1)
    terms -= tl.sum(weight * slope[None, :], 1) + tail * total
    tl.store(ds + t, terms)
    own = tl.sum(into[:, None] * grad.to(tl.float32), 0) + through * own
    total = tl.sum(into * slope, 0) + through * total
  if part == parts - 1:
    tl.store(a + line * E + e, own, mask=e < E)
    tl.store(b + piece * lines + line, total)
