# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Where a program stands: in the grid, and in the lists of a schedule.

Grids have one axis, which may have 2^31 programs; the other two end at 65,535.
"""

import triton
import triton.language as tl


@triton.jit
def place(LENGTH, BLOCK: tl.constexpr, HEADS: tl.constexpr):
  """(block, example, head, blocks of a head): blocks of one head follow each other."""
  blocks = tl.cdiv(LENGTH, BLOCK)
  i, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
  return i, (line // HEADS).to(tl.int64), (line % HEADS).to(tl.int64), blocks


@triton.jit
def entry(index, j, most, STEPS: tl.constexpr):
  """The tile of step j: each block of the schedule is walked in STEPS tiles."""
  return tl.load(index + tl.minimum(j // STEPS, most - 1)) * STEPS + j % STEPS


@triton.jit
def lists(index, full, count, b, n, i, blocks, rows):
  """(entries, how many are full, how many there are) of block i of a head.

  rows: (entries of a row, the rows from an example and from a head to the next).
  """
  most, row_b, row_n = rows
  row = (b * row_b + n * row_n) * blocks + i
  return index + row * most, tl.load(full + row), tl.load(count + row)


@triton.jit
def aligned(S, EVEN: tl.constexpr):
  """S, known to the compiler as a multiple of 16 where it is: loads of 16 bytes."""
  if EVEN:
    return S // 16 * 16
  else:
    return S
