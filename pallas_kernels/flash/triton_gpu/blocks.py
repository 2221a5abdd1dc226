# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The position of a program in the grid and in the lists of a schedule.

Grids have one axis, which may have 2^31 programs; the other two are limited to 65,535.
"""

import triton
import triton.language as tl


@triton.jit
def place(LENGTH, BLOCK: tl.constexpr, HEADS: tl.constexpr):
  """Returns (block, example, head, blocks of a head); blocks vary fastest."""
  blocks = tl.cdiv(LENGTH, BLOCK)
  i, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
  return i, (line // HEADS).to(tl.int64), (line % HEADS).to(tl.int64), blocks


@triton.jit
def entry(index, j, most, STEPS: tl.constexpr):
  """Returns the tile of step j, where each block of the schedule is STEPS tiles."""
  return tl.load(index + tl.minimum(j // STEPS, most - 1)) * STEPS + j % STEPS


@triton.jit
def lists(index, full, count, b, n, i, blocks, rows):
  """Returns (entries, number of full ones, number of all) of block i of a head.

  rows: (width of a row, stride between examples in rows, stride between heads in rows).
  """
  most, row_b, row_n = rows
  row = (b * row_b + n * row_n) * blocks + i
  return index + row * most, tl.load(full + row), tl.load(count + row)


@triton.jit
def aligned(S, EVEN: tl.constexpr):
  """Returns S as a known multiple of 16 if EVEN, which allows loads of 16 bytes."""
  if EVEN:
    return S // 16 * 16
  else:
    return S
