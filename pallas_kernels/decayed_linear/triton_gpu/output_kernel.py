# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The forward kernel: one program a chunk and a tile of values of a head."""

import triton
import triton.language as tl

from pallas_kernels.decayed_linear.triton_gpu import parts


@triton.jit
def output_kernel(q, k, v, sums, documents, states, T, out, F: tl.constexpr):
  """Grid (tiles of E, chunks, B N); out (B, T, N, E)."""
  row = tl.program_id(2).to(tl.int64)
  b, n = row // F.N, row % F.N
  i, e = tl.program_id(1), tl.program_id(0) * F.tile_e
  head = n // (F.N // F.K)
  q += (b * T * F.N + n) * F.H
  k += (b * T * F.K + head) * F.H
  v += (b * T * F.K + head) * F.E
  out += (b * T * F.N + n) * F.E
  states += (row * F.chunks + i) * F.state
  if sums is not None:
    sums += (b * F.decay_b + n * F.decay_n) * (2 * F.tokens)
  if documents is not None:
    documents += b * F.tokens
  t = i * F.chunk + tl.arange(0, F.chunk)
  total = tl.zeros([F.chunk, F.tile_e], tl.float32)
  scores = tl.zeros([F.chunk, F.chunk], tl.float32)
  for h in range(0, F.H, F.tile_h):
    query = parts.load(q, t, T, h, F.N, F.H, F.tile_h)
    key = parts.load(k, t, T, h, F.K, F.H, F.tile_h)
    state = parts.load_state(states, h, e, F)
    total = tl.dot(query, state, total, input_precision=F.precision)
    scores = tl.dot(query, tl.trans(key), scores, input_precision=F.precision)
  lines = parts.chunk_lines(sums, documents, i, F)
  value = parts.load(v, t, T, e, F.K, F.E, F.tile_e)
  total *= parts.reading(lines, F)[:, None]
  scores = (scores * parts.inside(lines, F, False)).to(value.dtype)
  total = tl.dot(scores, value, total, input_precision=F.precision)
  parts.store(out, t, T, e, total * F.scale, F.N, F.E, F.tile_e)
