# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Tiles as wide as any head, as tuples of one or two parts (see `constants.Width`)."""

import triton
import triton.language as tl


@triton.jit
def _load(
  pointer, rows, live, STRIDE: tl.constexpr, FIRST: tl.constexpr, W: tl.constexpr, SIZE
):
  h = FIRST + tl.arange(0, W)
  # An array may have more than 2^31 elements.
  pointers = pointer + rows.to(tl.int64)[:, None] * STRIDE + h[None, :]
  if FIRST + W > SIZE:
    mask = (h < SIZE)[None, :]
    if live is not None:
      mask = mask & live[:, None]
    return tl.load(pointers, mask=mask, other=0.0)
  elif live is not None:
    return tl.load(pointers, mask=live[:, None], other=0.0)
  else:
    return tl.load(pointers)


@triton.jit
def load(pointer, rows, live, HEADS: tl.constexpr, W: tl.constexpr):
  """Loads rows of an array (rows, HEADS, width); 0 where `live`, if any, is False."""
  SIZE: tl.constexpr = W.size
  first = _load(pointer, rows, live, HEADS * SIZE, 0, W.first, SIZE)
  if W.second == 0:
    return (first,)
  else:
    second = _load(pointer, rows, live, HEADS * SIZE, W.first, W.second, SIZE)
    return (first, second)


@triton.jit
def _store(
  pointer,
  rows,
  live,
  part,
  STRIDE: tl.constexpr,
  FIRST: tl.constexpr,
  W: tl.constexpr,
  SIZE,
):
  h = FIRST + tl.arange(0, W)
  pointers = pointer + rows.to(tl.int64)[:, None] * STRIDE + h[None, :]
  mask = live[:, None] & (h < SIZE)[None, :]
  tl.store(pointers, part.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def store(pointer, rows, live, parts, factor, HEADS: tl.constexpr, W: tl.constexpr):
  """Writes the parts times factor (a scalar or a column) to the live rows."""
  SIZE: tl.constexpr = W.size
  _store(pointer, rows, live, parts[0] * factor, HEADS * SIZE, 0, W.first, SIZE)
  if W.second > 0:
    part = parts[1] * factor
    _store(pointer, rows, live, part, HEADS * SIZE, W.first, W.second, SIZE)


@triton.jit
def zeros(ROWS: tl.constexpr, W: tl.constexpr):
  """Returns parts of zeros, float32."""
  if W.second == 0:
    return (tl.zeros([ROWS, W.first], tl.float32),)
  else:
    return (
      tl.zeros([ROWS, W.first], tl.float32),
      tl.zeros([ROWS, W.second], tl.float32),
    )


@triton.jit
def outer(left, right, W: tl.constexpr, PRECISION: tl.constexpr):
  """Computes left right^T, contracted over the width."""
  tile = tl.dot(left[0], tl.trans(right[0]), input_precision=PRECISION)
  if W.second > 0:
    tile = tl.dot(left[1], tl.trans(right[1]), tile, input_precision=PRECISION)
  return tile


@triton.jit
def add(parts, tile, rows, W: tl.constexpr, PRECISION: tl.constexpr):
  """Computes parts + tile rows, with the tile rounded to the rows' dtype."""
  tile = tile.to(rows[0].dtype)
  first = tl.dot(tile, rows[0], parts[0], input_precision=PRECISION)
  if W.second == 0:
    return (first,)
  else:
    return (first, tl.dot(tile, rows[1], parts[1], input_precision=PRECISION))


@triton.jit
def scaled(parts, column, W: tl.constexpr):
  """Multiplies each row of the parts by the element of `column`."""
  if W.second == 0:
    return (parts[0] * column[:, None],)
  else:
    return (parts[0] * column[:, None], parts[1] * column[:, None])


@triton.jit
def sick(parts, W: tl.constexpr):
  """Returns NaN for each row that holds a NaN or an infinity, else 0."""
  rows = tl.sum(parts[0].to(tl.float32) * 0.0, 1)
  if W.second > 0:
    rows += tl.sum(parts[1].to(tl.float32) * 0.0, 1)
  return rows


@triton.jit
def clean(parts, sick_rows, W: tl.constexpr):
  """Zeroes the sick rows of the parts, so that no product with 0 is NaN."""
  fine = (sick_rows == 0.0)[:, None]
  if W.second == 0:
    return (tl.where(fine, parts[0], 0.0),)
  else:
    return (tl.where(fine, parts[0], 0.0), tl.where(fine, parts[1], 0.0))
