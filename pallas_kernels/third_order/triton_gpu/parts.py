# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Parts of the GPU kernels: what a program reads, who sees whom, steps of loops."""

import triton
import triton.language as tl


@triton.jit
def power(distance):
  """Returns e^distance, of a difference of scores: only that is scaled."""
  return tl.exp2(distance * 1.4426950408889634)


@triton.jit
def lanes(ROWS: tl.constexpr, SECOND: tl.constexpr, H: tl.constexpr, V: tl.constexpr):
  """Returns the numbers of rows, of keys, and of the elements of k and of v."""
  return tl.arange(0, ROWS), tl.arange(0, SECOND), tl.arange(0, H), tl.arange(0, V)


@triton.jit
def program(R, ROWS: tl.constexpr):
  """Returns (tile, head, padded number of rows) of a program of a tile of rows."""
  blocks = (R + ROWS - 1) // ROWS
  place = tl.program_id(0)
  return place % blocks, (place // blocks).to(tl.int64), blocks * ROWS


@triton.jit
def documents(ids, at, PACKED: tl.constexpr):
  """Returns the documents of tokens, 0 where there is only one."""
  if PACKED:
    found = tl.load(ids + at)
  else:
    found = tl.zeros_like(at).to(tl.int32)
  return found


@triton.jit
def key(k1, v1, j, h, v, H: tl.constexpr, V: tl.constexpr):
  """Returns (k, v) of a key of the first stream."""
  at = tl.cast(j, tl.int64)
  return tl.load(k1 + at * H + h), tl.load(v1 + at * V + v)


@triton.jit
def skipping(low, m, a, b):
  """Returns the m-th number from `low` on that is not between a and b."""
  j = low + m
  return tl.where(j >= a, j + (b - a), j)


@triton.jit
def scores(query, k, keys, PRECISION: tl.constexpr):
  """Returns the scores of rows, one key of the first stream and a tile of keys."""
  return tl.dot(times(query, k), tl.trans(keys), input_precision=PRECISION)


@triton.jit
def add(
  score, value, values, most, sums, acc, SCALE: tl.constexpr, PRECISION: tl.constexpr
):
  """Returns (most, sums, acc) of the online softmax after one more tile of scores."""
  new = tl.maximum(most, tl.max(score, 1) * SCALE)
  weight = power(score * SCALE - new[:, None])
  factor = power(most - new)
  part = tl.dot(weight.to(values.dtype), values, input_precision=PRECISION)
  sums = sums * factor + tl.sum(weight, 1)
  return new, sums, acc * factor[:, None] + part * value.to(tl.float32)[None, :]


@triton.jit
def weights(score, most, share, SCALE: tl.constexpr):
  """Returns the weights of a tile of scores."""
  return power(score * SCALE - most[:, None]) * share[:, None]


@triton.jit
def slopes(weight, right, values, less, PRECISION: tl.constexpr):
  """Returns the gradients of a tile of scores; `right` is dO v1."""
  change = tl.dot(right, tl.trans(values), input_precision=PRECISION)
  return weight * (change - less[:, None])


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
