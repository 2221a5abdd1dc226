# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The backward kernel of tables: operands with an element for each query and key.

A program holds a tile of the gradient and loops over the examples and heads that read
the table: over all of them, or over every `groups`-th. So the gradient never takes the
memory of all their scores, needs no atomic operations and is equal in each run.
"""

import triton
import triton.language as tl

from pallas_kernels.flash.triton_gpu import blocks, head_tiles
from pallas_kernels.flash.triton_gpu.forward_kernel import scores, weights

# Entries of a schedule that are compared at a time.
_CHUNK = tl.constexpr(64)


@triton.jit
def _listed(index, block, visited):
  """Returns 1 if the block is one of the first `visited` entries, else 0."""
  found = 0
  for first in range(0, visited, _CHUNK):
    place = first + tl.arange(0, _CHUNK)
    entries = tl.load(index + place, mask=place < visited, other=-1)
    found = tl.maximum(found, tl.max((entries == block).to(tl.int32), 0))
  return found


@triton.jit
def _visit(
  q, k, v, g, top, low, delta, tiles, b, n, t, s, T, S, operands, place, F: tl.constexpr
):
  """Adds the gradients of one example and head to the tiles."""
  row, column, line = place
  rows, columns = tl.arange(0, F.block_q), tl.arange(0, F.block_k)
  row, column = b * T * F.N + n + row * F.N, b * S * F.K + n // (F.N // F.K) + column
  query = head_tiles.load(q + row * F.h.size, rows, t < T, F.N, F.h)
  key = head_tiles.load(k + column * F.h.size, columns, s < S, F.K, F.h)
  raw = head_tiles.outer(query, key, F.h, F.precision)
  t_, s_ = t[:, None], s[None, :]
  x = scores(raw, b, n, t_, s_, T, S, operands, F)
  line = (b * F.N + n) * line + t
  top, low = tl.load(top + line)[:, None], tl.load(low + line)[:, None]
  weight = weights(raw, x, top, low, F)
  seen = s_ < S
  if F.seen is not None:
    seen = seen & F.seen(b, n, t_, s_, T, S, operands)
  weight = tl.where(seen, weight, 0.0)
  grad = head_tiles.load(g + row * F.v.size, rows, t < T, F.N, F.v)
  value = head_tiles.load(v + column * F.v.size, columns, s < S, F.K, F.v)
  product = head_tiles.outer(grad, value, F.v, F.precision)
  kept = product
  if F.keep is not None:
    kept = F.keep(b, n, t_, s_, T, S, operands) * product
  dscore = weight * (kept - tl.load(delta + line)[:, None])
  dkeep = weight * product
  dscore, tiles = F.pull(
    raw * F.scale, dscore, dkeep, seen, tiles, b, n, t_, s_, T, S, operands
  )
  return tiles


@triton.jit
def tables_kernel(
  q,
  k,
  v,
  g,
  top,
  low,
  delta,
  index,
  full,
  count,
  operands,
  T,
  S,
  rows,
  length,
  members,
  out,
  F: tl.constexpr,
):
  """Computes gradients of tables; grid (tables x groups x query blocks x key tiles).

  members: (examples of a table, heads of a table, groups that divide them). out:
  (operands, tables, groups, T, S), the sums over each group.
  """
  S = blocks.aligned(S, F.even)
  examples, heads, groups = members
  count_q, count_k = tl.cdiv(T, F.block_q), tl.cdiv(S, F.block_k)
  j, i = tl.program_id(0) % count_k, tl.program_id(0) // count_k % count_q
  line = tl.program_id(0) // count_k // count_q
  group, table = line % groups, line // groups
  HEADS: tl.constexpr = F.N if F.own_n else 1
  own_b, own_n = table // HEADS, table % HEADS
  t = i * F.block_q + tl.arange(0, F.block_q)
  s = j * F.block_k + tl.arange(0, F.block_k)
  place = (i * F.block_q).to(tl.int64), (j * F.block_k).to(tl.int64) * F.K, length
  tiles = F.start(F.block_q, F.block_k)
  for member in range(group, examples * heads, groups):
    b, n = own_b + member // heads, own_n + member % heads
    b, n = b.to(tl.int64), n.to(tl.int64)
    entries, _, visited = blocks.lists(index, full, count, b, n, i, count_q, rows)
    for _ in range(_listed(entries, j // F.masked_steps, visited)):
      tiles = _visit(
        q, k, v, g, top, low, delta, tiles, b, n, t, s, T, S, operands, place, F
      )
  apart = (tl.num_programs(0) // count_k // count_q).to(tl.int64) * T * S
  cell = t.to(tl.int64)[:, None] * S + s[None, :]
  live = (t < T)[:, None] & (s < S)[None, :]
  F.finish(out + line.to(tl.int64) * T * S, apart, cell, live, tiles)
