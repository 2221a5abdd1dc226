# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The backward kernels: gradients by queries, keys and decays, and by values.

Each program computes a chunk and a tile of columns of a head, from the state before the
chunk and the gradient by the state after it.
"""

import triton
import triton.language as tl

from pallas_kernels.decayed_linear.triton_gpu import head_tiles


@triton.jit
def keys_kernel(
  q,
  k,
  v,
  g,
  sums,
  documents,
  states,
  changes,
  T,
  dq,
  dk,
  slopes,
  F: tl.constexpr,
  SLOPES: tl.constexpr,
):
  """Computes dq, dk (B, T, N, H); grid (B N, chunks, tiles of H), in one axis.

  If SLOPES, it also computes slopes (tiles of H, B, N, tokens). Their sums over tiles
  are the gradients by the log decays: for each token, the sum of the terms that are
  written before the token and read at or after it.
  """
  tile, i, row, b, n, head = head_tiles.place(F, F.tiles_h)
  h = tile * F.tile_h
  q += (b * T * F.N + n) * F.H
  k += (b * T * F.K + head) * F.H
  v += (b * T * F.K + head) * F.E
  g += (b * T * F.N + n) * F.E
  dq += (b * T * F.N + n) * F.H
  dk += (b * T * F.N + n) * F.H
  states += (row * F.chunks + i) * F.state
  changes += (row * F.chunks + i) * F.state
  first = i * F.chunk
  reads = tl.zeros([F.chunk, F.tile_h], tl.float32)
  writes = tl.zeros([F.chunk, F.tile_h], tl.float32)
  change = tl.zeros([F.chunk, F.chunk], tl.float32)
  passed = tl.zeros([F.tile_h], tl.float32)
  for e in range(0, F.E, F.tile_e):
    value = head_tiles.load(v, first, T, e, F.K, F.E, F.tile_e, F.chunk)
    slope = head_tiles.load(g, first, T, e, F.N, F.E, F.tile_e, F.chunk)
    before = head_tiles.load_state(states, h, e, F)
    after = head_tiles.load_state(changes, h, e, F)
    change = tl.dot(slope, tl.trans(value), change, input_precision=F.precision)
    if SLOPES:
      passed += tl.sum(before.to(tl.float32) * after.to(tl.float32), 1)
    before, unit = head_tiles.narrow(before, slope.dtype)
    reads = head_tiles.dot(slope, tl.trans(before), reads, unit, F.precision)
    after, unit = head_tiles.narrow(after, value.dtype)
    writes = head_tiles.dot(value, tl.trans(after), writes, unit, F.precision)
  lines = head_tiles.chunk_lines(sums, documents, b, n, i, F)
  query = head_tiles.load(q, first, T, h, F.N, F.H, F.tile_h, F.chunk)
  key = head_tiles.load(k, first, T, h, F.K, F.H, F.tile_h, F.chunk)
  change *= head_tiles.inside(lines, F, False) * F.scale
  reads *= (head_tiles.reading(lines, F) * F.scale)[:, None]
  writes *= head_tiles.writing(lines, F)[:, None]
  if SLOPES:
    kept = tl.sum(writes * key, 1)[None, :]
    ahead = tl.sum(reads * query, 1)[None, :]
  scores, unit = head_tiles.narrow(change, key.dtype)
  reads = head_tiles.dot(scores, key, reads, unit, F.precision)
  writes = head_tiles.dot(tl.trans(scores), query, writes, unit, F.precision)
  head_tiles.store(dq, first, T, h, reads, F.N, F.H, F.tile_h, F.chunk)
  head_tiles.store(dk, first, T, h, writes, F.N, F.H, F.tile_h, F.chunk)
  if SLOPES:
    raw = tl.dot(query, tl.trans(key), input_precision=F.precision) * change
    place = tl.arange(0, F.chunk)
    # Only the terms that pass a token are added: a difference of sums of all terms
    # would leave the rounding of the largest, of whichever document, in every token.
    pairs = tl.cumsum(raw, 0, reverse=True)
    pairs += kept
    earlier = place[None, :] < place[:, None]
    line = tl.sum(tl.where(earlier, pairs, ahead), 1)
    line += tl.sum(passed, 0) * head_tiles.keeping(lines)
    rows = tl.num_programs(0) // (F.tiles_h * F.chunks)
    slopes += (tile * rows + row) * F.tokens
    tl.store(slopes + first + place, line)


@triton.jit
def values_kernel(q, k, g, sums, documents, changes, T, dv, F: tl.constexpr):
  """Computes dv (B, T, N, E); grid (B N, chunks, tiles of E), in one axis."""
  tile, i, row, b, n, head = head_tiles.place(F, F.tiles_e)
  e = tile * F.tile_e
  q += (b * T * F.N + n) * F.H
  k += (b * T * F.K + head) * F.H
  g += (b * T * F.N + n) * F.E
  dv += (b * T * F.N + n) * F.E
  changes += (row * F.chunks + i) * F.state
  first = i * F.chunk
  total = tl.zeros([F.chunk, F.tile_e], tl.float32)
  scores = tl.zeros([F.chunk, F.chunk], tl.float32)
  for h in range(0, F.H, F.tile_h):
    query = head_tiles.load(q, first, T, h, F.N, F.H, F.tile_h, F.chunk)
    key = head_tiles.load(k, first, T, h, F.K, F.H, F.tile_h, F.chunk)
    after, unit = head_tiles.narrow(head_tiles.load_state(changes, h, e, F), key.dtype)
    total = head_tiles.dot(key, after, total, unit, F.precision)
    scores = tl.dot(key, tl.trans(query), scores, input_precision=F.precision)
  lines = head_tiles.chunk_lines(sums, documents, b, n, i, F)
  slope = head_tiles.load(g, first, T, e, F.N, F.E, F.tile_e, F.chunk)
  total *= head_tiles.writing(lines, F)[:, None]
  scores *= head_tiles.inside(lines, F, True) * F.scale
  scores, unit = head_tiles.narrow(scores, slope.dtype)
  total = head_tiles.dot(scores, slope, total, unit, F.precision)
  head_tiles.store(dv, first, T, e, total, F.N, F.E, F.tile_e, F.chunk)
