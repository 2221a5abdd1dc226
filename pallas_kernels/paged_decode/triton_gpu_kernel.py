# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""The GPU kernel: a program reads its share of a list's pages, for a group of heads.

A tile of TOKENS tokens may hold several pages or a part of one: each row of it is
loaded from where its page lies. Tokens that a page does not have are not loaded. The
heads that read the same keys are rows of one tile.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rows(array, token, head, seen, HEADS: tl.constexpr, SIZE: tl.constexpr, e):
  """Loads rows `token` of a head of an array (Z, HEADS, SIZE), 0 where not seen."""
  place = (token.to(tl.int64) * HEADS + head) * SIZE  # which may be beyond 2^31
  mask = seen[:, None] & (e < SIZE)[None, :]
  return tl.load(array + place[:, None] + e[None, :], mask=mask, other=0.0)


@triton.jit
def _visit(
  query, k, v, starts, counts, head, live, i, state, M, logits, F: tl.constexpr
):
  """Updates (top, total, acc) of the rows by tile i of the list."""
  top, total, acc = state
  s = i * F.tokens + tl.arange(0, F.tokens)
  page, place = s // F.page, s % F.page
  count = tl.load(counts + page, mask=page < M, other=0)
  seen = place < count
  token = tl.load(starts + page, mask=page < M, other=0) + place
  key = _rows(k, token, head, seen, F.K, F.H, tl.arange(0, F.width))
  raw = tl.dot(query, tl.trans(key), input_precision=F.precision) * F.scale
  x = tl.where(seen[None, :], raw, float("-inf"))
  if logits is not None:
    mask = live[:, None] & (page < M)[None, :]
    tl.store(logits[:, None] + s[None, :], x, mask=mask)
  new = tl.maximum(top, tl.max(x, 1))
  pivot = tl.where(new == float("-inf"), 0.0, new)
  weight = tl.exp2((x - pivot[:, None]) * LOG2E)
  decay = tl.exp2((top - pivot) * LOG2E)
  value = _rows(v, token, head, seen, F.K, F.V, tl.arange(0, F.width_v))
  acc = tl.dot(
    weight.to(value.dtype), value, acc * decay[:, None], input_precision=F.precision
  )
  return new, total * decay + tl.sum(weight, 1), acc


@triton.jit
def _attend(
  q, k, v, starts, counts, pages, M, out, tops, totals, logits, F: tl.constexpr
):
  GROUP: tl.constexpr = F.N // F.lists
  BLOCKS: tl.constexpr = (GROUP + F.rows - 1) // F.rows
  part, place = tl.program_id(0) % F.parts, tl.program_id(0) // F.parts
  r = place % BLOCKS * F.rows + tl.arange(0, F.rows)
  place = place // BLOCKS
  line, b = place % F.lists, (place // F.lists).to(tl.int64)
  live = r < GROUP
  # Rows past the last are copies of it, so that all their reads are in bounds.
  n = line * GROUP + tl.minimum(r, GROUP - 1)
  e = tl.arange(0, F.width)
  query = q + ((b * F.N + n) * F.H)[:, None] + e[None, :]
  query = tl.load(query, mask=(e < F.H)[None, :], other=0.0)
  own = b * F.G + line * F.G // F.lists
  starts, counts = starts + own * M, counts + own * M
  if logits is not None:
    logits += (b * F.N + n) * (M * F.page)
  tiles = tl.cdiv(tl.load(pages + own) * F.page, F.tokens)
  share = tl.cdiv(tiles, F.parts)
  first = tl.minimum(part * share, tiles)
  top = tl.full([F.rows], float("-inf"), tl.float32)
  state = top, tl.zeros([F.rows], tl.float32), tl.zeros([F.rows, F.width_v], tl.float32)
  head = line * F.K // F.lists
  for i in range(first, tl.minimum(first + share, tiles)):
    state = _visit(query, k, v, starts, counts, head, live, i, state, M, logits, F)
  top, total, acc = state
  acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
  place = ((b * F.lists + line) * F.parts + part) * GROUP
  e = tl.arange(0, F.width_v)
  mask = live[:, None] & (e < F.V)[None, :]
  tl.store(out + (place + r)[:, None] * F.V + e[None, :], acc, mask=mask)
  tl.store(tops + place + r, top, mask=live)
  tl.store(totals + place + r, total, mask=live)


@triton.jit
def paged_kernel(q, k, v, starts, counts, pages, M, out, top, total, F: tl.constexpr):
  """Computes attention over parts of each list; grid (B x lists x row blocks x parts).

  Outputs, float32: out (B, lists, parts, group, V), a part's own average; top and total
  (B, lists, parts, group).
  """
  _attend(q, k, v, starts, counts, pages, M, out, top, total, None, F)


@triton.jit
def scores_kernel(
  q, k, v, starts, counts, pages, M, out, top, total, logits, F: tl.constexpr
):
  """Computes also the scores of the tokens of visited pages, (B, N, M page)."""
  _attend(q, k, v, starts, counts, pages, M, out, top, total, logits, F)
