# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The forward kernel of few queries: the keys of a head are split among programs.

Tri Dao et al. Flash-Decoding. 2023. https://pytorch.org/blog/flash-decoding. The heads
of a group are rows of one tile: its keys and values are read once. Row r is the query r
mod T of the group's head r div T.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import parts
from pallas_kernels.flash.triton_gpu.forward_kernel import LOG2E, _visit, entry


@triton.jit
def decode_kernel(
  q, k, v, index, full, count, operands, T, S, PARTS, acc, top, total, F: tl.constexpr
):
  """Grid (parts x row blocks x K x B); each takes its share of the visited blocks.

  acc: (B, K, PARTS, rows, V) float32, the sums of exp(score - top) value;
  top, total: (B, K, PARTS, rows), as `forward` gives them, of a part.
  """
  GROUP: tl.constexpr = F.N // F.K
  rows = GROUP * T
  blocks = tl.cdiv(rows, F.block_q)
  part, place = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
  first, place = place % blocks * F.block_q, place // blocks
  head, b = (place % F.K).to(tl.int64), (place // F.K).to(tl.int64)
  r = first + tl.arange(0, F.block_q)
  # Rows beyond the last are copies of it, so that all they read is there.
  row = tl.minimum(r, rows - 1)
  t, n = row % T, head * GROUP + row // T
  query = parts.load(q + b * T * F.N * F.h.size, t * F.N + n, None, 1, F.h)
  k += (b * S * F.K + head) * F.h.size
  v += (b * S * F.K + head) * F.v.size
  whole, visited = tl.load(full + b * F.row_b), tl.load(count + b * F.row_b)
  index += b * F.row_b * F.most
  share = tl.cdiv(visited, PARTS)
  begin = tl.minimum(part * share, visited)
  end = tl.minimum(begin + share, visited)
  middle = tl.minimum(tl.maximum(whole, begin), end)
  most = tl.full([F.block_q], float("-inf"), tl.float32)
  state = most, tl.zeros([F.block_q], tl.float32), parts.zeros(F.block_q, F.v)
  n_ = n[:, None]
  block = entry(index, begin, F.most, 1)
  for j in range(begin, middle):
    following = entry(index, j + 1, F.most, 1)
    state = _visit(query, k, v, block, state, b, n_, t, T, S, operands, F, False)
    block = following
  for j in range(middle, end):
    following = entry(index, j + 1, F.most, 1)
    state = _visit(query, k, v, block, state, b, n_, t, T, S, operands, F, True)
    block = following
  most, sums, weighed = state
  place = ((b * F.K + head) * PARTS + part) * rows
  parts.store(acc + place * F.v.size, r, r < rows, weighed, 1.0, 1, F.v)
  tl.store(top + place + r, most * (F.unit / LOG2E), mask=r < rows)
  tl.store(total + place + r, sums, mask=r < rows)
