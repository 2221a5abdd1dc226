# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Tiles of tokens and of states, and a chunk's decays."""

import triton
import triton.language as tl


@triton.jit
def place(F: tl.constexpr, COLUMNS: tl.constexpr):
  """(tile of columns, chunk, head of the batch) of a program, in a grid of one axis.

  Others of CUDA's axes end at 65 535.
  """
  program = tl.program_id(0)
  tile, rest = program % COLUMNS, program // COLUMNS
  return tile, rest % F.chunks, (rest // F.chunks).to(tl.int64)


@triton.jit
def rows(pointer, first, HEADS: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
  """Where rows first to first + C of an array (T, HEADS, SIZE) are, beyond 2^31 too."""
  pointer += tl.cast(first, tl.int64) * (HEADS * SIZE)
  return pointer + tl.arange(0, C)[:, None] * (HEADS * SIZE)


@triton.jit
def load(
  pointer,
  first,
  T,
  column,
  HEADS: tl.constexpr,
  SIZE: tl.constexpr,
  W: tl.constexpr,
  C: tl.constexpr,
):
  """C rows from `first`, W columns from `column`, of (T, HEADS, SIZE); 0 beyond."""
  columns = column + tl.arange(0, W)
  pointers = rows(pointer, first, HEADS, SIZE, C) + columns[None, :]
  mask = (first + tl.arange(0, C) < T)[:, None]
  if SIZE % W != 0:
    mask = mask & (columns < SIZE)[None, :]
  return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store(
  pointer,
  first,
  T,
  column,
  tile,
  HEADS: tl.constexpr,
  SIZE: tl.constexpr,
  W: tl.constexpr,
  C: tl.constexpr,
):
  """Writes such a tile."""
  columns = column + tl.arange(0, W)
  pointers = rows(pointer, first, HEADS, SIZE, C) + columns[None, :]
  mask = (first + tl.arange(0, C) < T)[:, None] & (columns < SIZE)[None, :]
  tl.store(pointers, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _places(pointer, h, e, F: tl.constexpr):
  rows, columns = h + tl.arange(0, F.tile_h), e + tl.arange(0, F.tile_e)
  mask = (rows < F.H)[:, None] & (columns < F.E)[None, :]
  return pointer + rows[:, None] * F.E + columns[None, :], mask


@triton.jit
def load_state(pointer, h, e, F: tl.constexpr):
  """A tile of a state (H, E), from row h and column e; 0 beyond."""
  pointers, mask = _places(pointer, h, e, F)
  if F.H % F.tile_h == 0 and F.E % F.tile_e == 0:
    return tl.load(pointers)
  else:
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_state(pointer, h, e, tile, F: tl.constexpr):
  """Writes such a tile."""
  pointers, mask = _places(pointer, h, e, F)
  tl.store(pointers, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def narrow(x, TYPE: tl.constexpr):
  """(x, rounded to a type for tensor cores, its unit: a power of two, or None for 1).

  In float16 a tile's largest number is made about 2^15, whatever states grow to.
  """
  if TYPE == tl.float16:
    most = tl.max(tl.max(tl.abs(x), 1), 0)
    unit = tl.exp2(tl.ceil(tl.log2(tl.maximum(most, 1e-30))) - 15.0)
    return (x * (1.0 / unit)).to(TYPE), unit
  else:
    return x.to(TYPE), None


@triton.jit
def dot(left, right, total, unit, PRECISION: tl.constexpr):
  """The sum total + left right, where one of the factors was in such units."""
  if unit is None:
    return tl.dot(left, right, total, input_precision=PRECISION)
  else:
    return total + tl.dot(left, right, input_precision=PRECISION) * unit


@triton.jit
def chunk_lines(sums, documents, i, F: tl.constexpr):
  """(sums, last sum, documents, the one before the chunk, the last) of chunk i.

  A sum is a high and a low part. What is None has no effect.
  """
  first = i * F.chunk
  t = first + tl.arange(0, F.chunk)
  line, end, place, before, last = None, None, None, None, None
  if sums is not None:
    low = sums + F.tokens
    line = tl.load(sums + t), tl.load(low + t)
    end = tl.load(sums + first + F.chunk - 1), tl.load(low + first + F.chunk - 1)
  if documents is not None:
    place = tl.load(documents + t)
    before = tl.load(documents + tl.maximum(first - 1, 0))
    last = tl.load(documents + first + F.chunk - 1)
  return line, end, place, before, last


@triton.jit
def _power(line):
  high, low = line
  return tl.exp2(high + low)


@triton.jit
def reading(lines, F: tl.constexpr):
  """What each token sees of the state before the chunk."""
  line, _, place, before, _ = lines
  power = tl.full([F.chunk], 1.0, tl.float32) if line is None else _power(line)
  return power if place is None else tl.where(place == before, power, 0.0)


@triton.jit
def writing(lines, F: tl.constexpr):
  """What the state after the chunk keeps of each token."""
  line, end, place, _, last = lines
  if line is None:
    power = tl.full([F.chunk], 1.0, tl.float32)
  else:
    power = tl.exp2((end[0] - line[0]) + (end[1] - line[1]))
  return power if place is None else tl.where(place == last, power, 0.0)


@triton.jit
def keeping(lines):
  """What the state after the chunk keeps of the one before it."""
  line, end, place, before, last = lines
  power = 1.0 if line is None else _power(end)
  return power if place is None else tl.where(before == last, power, 0.0)


@triton.jit
def inside(lines, F: tl.constexpr, KEYS_DOWN: tl.constexpr):
  """D: what a token sees of each one before it in the chunk."""
  line, _, place, _, _ = lines
  t = tl.arange(0, F.chunk)
  if KEYS_DOWN:
    seen = t[None, :] >= t[:, None]
  else:
    seen = t[:, None] >= t[None, :]
  if place is not None:
    seen = seen & (place[:, None] == place[None, :])
  if line is None:
    return tl.where(seen, 1.0, 0.0)
  else:
    high, low = line
    # The high parts' difference is exact.
    if KEYS_DOWN:
      exponent = (high[None, :] - high[:, None]) + (low[None, :] - low[:, None])
    else:
      exponent = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.exp2(tl.where(seen, exponent, float("-inf")))
