# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The forward kernel of few queries: the keys of a head are split among programs.

Tri Dao et al. Flash-Decoding. 2023. https://pytorch.org/blog/flash-decoding. The heads
of a group are rows of one tile, so that its keys and values are read once. Row r is
query r mod T of the group's head r div T.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import blocks, head_tiles
from pallas_kernels.flash.triton_gpu.forward_kernel import _visit, begun, ended


@triton.jit
def decode_kernel(
  q,
  k,
  v,
  index,
  full,
  count,
  operands,
  T,
  S,
  lists,
  PARTS,
  out,
  top,
  total,
  F: tl.constexpr,
):
  """Computes attention over parts of the keys; grid (B x K x row blocks x PARTS).

  Each program visits its share of the blocks. Outputs are the forward kernel's for each
  part, in float32: out (B, K, PARTS, rows, V), top and total (B, K, PARTS, rows).
  """
  GROUP: tl.constexpr = F.N // F.K
  rows = GROUP * T
  tiles = tl.cdiv(rows, F.block_q)
  part, place = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
  r = place % tiles * F.block_q + tl.arange(0, F.block_q)
  place = place // tiles
  head, b = (place % F.K).to(tl.int64), (place // F.K).to(tl.int64)
  # Rows past the last are copies of it, so that all their reads are in bounds.
  row = tl.minimum(r, rows - 1)
  t, n = row % T, head * GROUP + row // T
  query = head_tiles.load(q + b * T * F.N * F.h.size, t * F.N + n, None, 1, F.h)
  k += (b * S * F.K + head) * F.h.size
  v += (b * S * F.K + head) * F.v.size
  S = blocks.aligned(S, F.even)
  index, whole, visited = blocks.lists(index, full, count, b, 0, 0, 1, lists)
  share = tl.cdiv(visited, PARTS)
  begin = tl.minimum(part * share, visited)
  end = tl.minimum(begin + share, visited)
  middle = tl.minimum(tl.maximum(whole, begin), end)
  state, most, n_ = begun(F), lists[0], n[:, None]
  block = blocks.entry(index, begin, most, 1)
  for j in range(begin, middle):
    following = blocks.entry(index, j + 1, most, 1)
    state = _visit(query, k, v, block, state, b, n_, t, T, S, operands, F, False)
    block = following
  for j in range(middle, end):
    following = blocks.entry(index, j + 1, most, 1)
    state = _visit(query, k, v, block, state, b, n_, t, T, S, operands, F, True)
    block = following
  greatest, sums, factor = ended(state, None, F)
  place = ((b * F.K + head) * PARTS + part) * rows
  head_tiles.store(
    out + place * F.v.size, r, r < rows, state[3], factor[:, None], 1, F.v
  )
  tl.store(top + place + r, greatest, mask=r < rows)
  tl.store(total + place + r, sums, mask=r < rows)
