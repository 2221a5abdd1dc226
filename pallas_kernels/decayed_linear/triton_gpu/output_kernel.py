# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The forward kernel: a program for each chunk and tile of values of a head."""

import triton
import triton.language as tl

from pallas_kernels.decayed_linear.triton_gpu import head_tiles


@triton.jit
def output_kernel(q, k, v, sums, documents, states, T, out, F: tl.constexpr):
  """Computes out (B, T, N, E); grid (B N, chunks, tiles of E), in one axis."""
  tile, i, row, b, n, head = head_tiles.place(F, F.tiles_e)
  e = tile * F.tile_e
  q += (b * T * F.N + n) * F.H
  k += (b * T * F.K + head) * F.H
  v += (b * T * F.K + head) * F.E
  out += (b * T * F.N + n) * F.E
  states += (row * F.chunks + i) * F.state
  first = i * F.chunk
  total = tl.zeros([F.chunk, F.tile_e], tl.float32)
  scores = tl.zeros([F.chunk, F.chunk], tl.float32)
  for h in range(0, F.H, F.tile_h):
    query = head_tiles.load(q, first, T, h, F.N, F.H, F.tile_h, F.chunk)
    key = head_tiles.load(k, first, T, h, F.K, F.H, F.tile_h, F.chunk)
    state, unit = head_tiles.narrow(head_tiles.load_state(states, h, e, F), query.dtype)
    total = head_tiles.dot(query, state, total, unit, F.precision)
    scores = tl.dot(query, tl.trans(key), scores, input_precision=F.precision)
  lines = head_tiles.chunk_lines(sums, documents, b, n, i, F)
  value = head_tiles.load(v, first, T, e, F.K, F.E, F.tile_e, F.chunk)
  total *= head_tiles.reading(lines, F)[:, None]
  scores, unit = head_tiles.narrow(
    scores * head_tiles.inside(lines, F, False), value.dtype
  )
  total = head_tiles.dot(scores, value, total, unit, F.precision)
  head_tiles.store(out, first, T, e, total * F.scale, F.N, F.E, F.tile_e, F.chunk)
