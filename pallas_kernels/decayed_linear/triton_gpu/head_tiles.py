# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Tiles of tokens and of states, and a chunk's decays."""

import triton
import triton.language as tl


@triton.jit
def place(F: tl.constexpr, COLUMNS: tl.constexpr):
  """Returns (tile of columns, chunk, row, example, query head, key head) of a program.

  A row is a query head of an example. The grid has one axis, since CUDA's other axes
  end at 65 535.
  """
  program = tl.program_id(0)
  tile, rest = program % COLUMNS, program // COLUMNS
  row = (rest // F.chunks).to(tl.int64)
  n = row % F.N
  return tile, rest % F.chunks, row, row // F.N, n, n // (F.N // F.K)


@triton.jit
def rows(pointer, first, HEADS: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr):
  """Returns pointers to C rows from `first` of (T, HEADS, SIZE), in 64 bits."""
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
  """Loads C rows from `first`, W columns from `column`, of (T, HEADS, SIZE).

  Elements beyond the array are 0.
  """
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
  """Stores a tile where `load` with these arguments reads it."""
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
  """Loads a tile of a state (H, E) from row h and column e; 0 beyond the state."""
  pointers, mask = _places(pointer, h, e, F)
  if F.H % F.tile_h == 0 and F.E % F.tile_e == 0:
    return tl.load(pointers)
  else:
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_state(pointer, h, e, tile, F: tl.constexpr):
  """Stores a tile of a state (H, E) from row h and column e."""
  pointers, mask = _places(pointer, h, e, F)
  tl.store(pointers, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def narrow(x, TYPE: tl.constexpr):
  """Returns (x / unit in TYPE, unit), the unit a power of two, or None for 1.

  In float16 a tile's largest element becomes about 2^15, whatever states grow to.
  """
  if TYPE == tl.float16:
    most = tl.max(tl.max(tl.abs(x), 1), 0)
    unit = tl.exp2(tl.ceil(tl.log2(tl.maximum(most, 1e-30))) - 15.0)
    return (x * (1.0 / unit)).to(TYPE), unit
  else:
    return x.to(TYPE), None


@triton.jit
def dot(left, right, total, unit, PRECISION: tl.constexpr):
  """Returns total + left right, of which one factor has the unit of `narrow`."""
  if unit is None:
    return tl.dot(left, right, total, input_precision=PRECISION)
  else:
    return total + tl.dot(left, right, input_precision=PRECISION) * unit


@triton.jit
def chunk_lines(sums, documents, b, n, i, F: tl.constexpr):
  """Returns (sums, last sum, documents, document before, last document) of a chunk.

  The chunk is number i of head n of example b. A sum is a (high, low) pair. The entries
  of sums or documents that are None are None.
  """
  first = i * F.chunk
  t = first + tl.arange(0, F.chunk)
  line, end, place, before, last = None, None, None, None, None
  if sums is not None:
    sums += (b * F.decay_b + n * F.decay_n) * (2 * F.tokens)
    low = sums + F.tokens
    line = tl.load(sums + t), tl.load(low + t)
    end = tl.load(sums + first + F.chunk - 1), tl.load(low + first + F.chunk - 1)
  if documents is not None:
    documents += b * F.tokens
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
  """Returns each token's weight of the state before the chunk: exp(G), (chunk,)."""
  line, _, place, before, _ = lines
  power = tl.full([F.chunk], 1.0, tl.float32) if line is None else _power(line)
  return power if place is None else tl.where(place == before, power, 0.0)


@triton.jit
def writing(lines, F: tl.constexpr):
  """Returns each token's weight in the state after the chunk: exp(G_last - G)."""
  line, end, place, _, last = lines
  if line is None:
    power = tl.full([F.chunk], 1.0, tl.float32)
  else:
    power = tl.exp2((end[0] - line[0]) + (end[1] - line[1]))
  return power if place is None else tl.where(place == last, power, 0.0)


@triton.jit
def keeping(lines):
  """Returns the decay of the state over the whole chunk: exp(G_last)."""
  line, end, place, before, last = lines
  power = 1.0 if line is None else _power(end)
  return power if place is None else tl.where(before == last, power, 0.0)


@triton.jit
def inside(lines, F: tl.constexpr, KEYS_DOWN: tl.constexpr):
  """Returns the decay matrix D of the chunk, with keys as rows if KEYS_DOWN."""
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
    # The difference of the high parts is exact.
    if KEYS_DOWN:
      exponent = (high[None, :] - high[:, None]) + (low[None, :] - low[:, None])
    else:
      exponent = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.exp2(tl.where(seen, exponent, float("-inf")))
