# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Parts of the GPU kernels: who sees whom, and the offsets of tiles."""

import triton
import triton.language as tl


@triton.jit
def power(distance):
  """Returns e^distance, of a difference of scores: only that is scaled."""
  return tl.exp2(distance * 1.4426950408889634)


@triton.jit
def positions(i, start, R, GROUP: tl.constexpr, ROWS: tl.constexpr):
  """Returns the positions of the first and of the last row of a tile."""
  last = tl.minimum((i + 1) * ROWS, R) - 1
  return start + (i * ROWS) // GROUP, start + last // GROUP


@triton.jit
def ends(first, last, S, WINDOW: tl.constexpr, CAUSAL: tl.constexpr):
  """Returns (low, all_low, all_high, high): keys that some, and that all, rows see."""
  low, all_low = first * 0, last * 0
  if WINDOW > 0:
    low, all_low = first - WINDOW + 1, last - WINDOW + 1
  if CAUSAL:
    high, all_high = last + 1, first + 1
  elif WINDOW > 0:
    high, all_high = last + WINDOW, first + WINDOW
  else:
    high, all_high = last * 0 + S, first * 0 + S
  low, all_low = clipped(low, S), clipped(all_low, S)
  return low, all_low, clipped(all_high, S), clipped(high, S)


@triton.jit
def clipped(x, S):
  """Returns x between 0 and S."""
  return tl.minimum(tl.maximum(x, 0), S)


@triton.jit
def sees(
  row, key, start, S, WINDOW: tl.constexpr, CAUSAL: tl.constexpr, GROUP: tl.constexpr
):
  """Returns whether rows see keys; positions are compared in rows."""
  place, seen = key - start, (key < S) & (row >= 0)
  if CAUSAL:
    seen = seen & (row >= place * GROUP)
  elif WINDOW > 0:
    seen = seen & (row >= (place - WINDOW + 1) * GROUP)
  if WINDOW > 0:
    seen = seen & (row < (place + WINDOW) * GROUP)
  return seen


@triton.jit
def both(
  row,
  j,
  key,
  start,
  S,
  own,
  one,
  others,
  W1: tl.constexpr,
  W2: tl.constexpr,
  CAUSAL: tl.constexpr,
  GROUP: tl.constexpr,
  PACKED: tl.constexpr,
):
  """Returns whether rows see key j of the first stream and keys of the second."""
  seen = sees(row[:, None], key[None, :], start, S, W2, CAUSAL, GROUP)
  seen = seen & sees(row, j, start, S, W1, CAUSAL, GROUP)[:, None]
  if PACKED:
    seen = seen & (own[:, None] == others[None, :])
    seen = seen & ((own == one) & (own >= 0))[:, None]
  return seen


@triton.jit
def tile(array, u, length, begin, rows, columns, WIDTH: tl.constexpr):
  """Returns pointers to rows of (U, length, WIDTH), from `begin` on, in 64 bits."""
  array += (u * length + begin) * WIDTH
  return array + rows[:, None] * WIDTH + columns[None, :]


@triton.jit
def times(rows, line):
  """Returns rows times a line in their type, which is rounded once."""
  return rows * line[None, :]
