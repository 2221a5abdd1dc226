# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The kernel of the states: a scan over chunks for each tile of the state of a head.

Forward it writes the states before each chunk, in reverse the gradients by the states
after each chunk. This alone is sequential, one product a chunk; outputs and gradients
of all chunks then are independent, which fills a GPU when batch and heads alone do not.
Where the tiles of states do not either, the chunks are cut into parts that run in
parallel: once from zero states, for the states that they end with, and once more.
"""

import triton
import triton.language as tl

from pallas_kernels.decayed_linear.triton_gpu import head_tiles


@triton.jit
def states_kernel(
  x,
  y,
  sums,
  documents,
  before,
  T,
  states,
  last,
  F: tl.constexpr,
  HEADS: tl.constexpr,
  ENDS: tl.constexpr,
):
  """Computes the states; grid (B N, parts, tiles of H x E), in one axis.

  x (B, T, HEADS, H), y (B, T, HEADS, E): keys and values, or in reverse queries and
  the gradient by outputs; before (parts, B, N, H, E), the states that parts start from,
  or None; states (B, N, chunks, H, E); last (B, N, H, E) float32.

  With ENDS the last part is left out, states (parts - 1, B, N, H, E) float32 are only
  those after each part, and last (parts - 1, B, N) float32 are the parts' decays.
  """
  PARTS: tl.constexpr = F.parts - 1 if ENDS else F.parts
  program = tl.program_id(0)
  h = (program // F.tiles_e % F.tiles_h) * F.tile_h
  e = (program % F.tiles_e) * F.tile_e
  place = program // (F.tiles_e * F.tiles_h)
  part, row = place % PARTS, (place // PARTS).to(tl.int64)
  # The row in arrays (parts, B N, ...).
  line = part * (tl.num_programs(0) // (F.tiles_e * F.tiles_h * PARTS)) + row
  b, n = row // F.N, row % F.N
  head = n // (F.N // HEADS)
  x += (b * T * HEADS + head) * F.H
  y += (b * T * HEADS + head) * F.E
  if not ENDS:
    states += row * F.chunks * F.state
  state = tl.zeros([F.tile_h, F.tile_e], tl.float32)
  kept = tl.full([], 1.0, tl.float32)
  if before is not None:
    state += head_tiles.load_state(before + line * F.state, h, e, F)
  begin = part * F.span
  for step in range(tl.minimum(F.span, F.chunks - begin)):
    i = F.chunks - 1 - begin - step if F.reverse else begin + step
    if not ENDS:
      head_tiles.store_state(states + tl.cast(i, tl.int64) * F.state, h, e, state, F)
    lines = head_tiles.chunk_lines(sums, documents, b, n, i, F)
    first = i * F.chunk
    left = head_tiles.load(x, first, T, h, HEADS, F.H, F.tile_h, F.chunk)
    right = head_tiles.load(y, first, T, e, HEADS, F.E, F.tile_e, F.chunk)
    weight = head_tiles.reading(lines, F) if F.reverse else head_tiles.writing(lines, F)
    unit = None
    if F.reverse and right.dtype == tl.float16:
      unit = F.scale  # times queries it could be more than float16 holds
    elif F.reverse:
      weight *= F.scale
    left = (tl.trans(left) * weight[None, :]).to(right.dtype)
    keep = head_tiles.keeping(lines)
    state = head_tiles.dot(left, right, state * keep, unit, F.precision)
    if ENDS:
      kept *= keep
  if ENDS:
    head_tiles.store_state(states + line * F.state, h, e, state, F)
    tl.store(last + line, kept, mask=h + e == 0)
  elif part == PARTS - 1:
    head_tiles.store_state(last + row * F.state, h, e, state, F)
