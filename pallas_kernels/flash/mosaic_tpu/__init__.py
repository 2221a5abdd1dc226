"""Softmax attention on TPUs: Pallas kernels for Mosaic, forward and backward.

Dao et al., "FlashAttention" (arXiv:2205.14135), over lists of the blocks that a mask
touches (FlexAttention's block masks, arXiv:2412.05496).
"""

import dataclasses

import jax
import jax.numpy as jnp

from attnjax.core.platform import target_kind, target_platform
from pallas_kernels.flash.mosaic_tpu import (
  backward_kernel,
  decode,
  derivative,
  forward_kernel,
  layout,
  operands,
)
from pallas_kernels.flash.mosaic_tpu.memory import estimate
from pallas_kernels.flash.mosaic_tpu.part import Plan
from pallas_kernels.flash.mosaic_tpu.tiles import (
  Tile,
  Tiles,
  check,
  check_schedule,
  defaults,
  supports,
)

__all__ = [
  "Tile",
  "Tiles",
  "backward",
  "check",
  "defaults",
  "estimate",
  "fitting",
  "forward",
  "supports",
]


def fitting(q, k, v, program) -> Tiles:
  """The default tiles for arrays, or their shapes, on the device they will be on."""
  kind = target_kind() if target_platform() == "tpu" else ""
  return defaults(q, k, v, program, kind)


def forward(q, k, v, sinks, program, schedule, *, scale: float, tiles: Tiles):
  """Attention and the logarithm of its normaliser.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H); query head n reads key head n div (N/K).
    v: (B, S, K, V).
    sinks: (N,) float32 scores that weigh without a value, or None.
    program: of scores, see `attnjax.core.scores.Program`.
    schedule: the blocks that its mask touches, in tiles of `tiles.forward`.
    scale: what q . k is multiplied by.
    tiles: how the work is cut.

  Returns:
    out (B, T, N, V) in v's dtype, lse (B, T, N) float32; 0 and -inf for a query that
    sees nothing.

  Raises:
    ValueError: tiles that do not fit the shapes, the schedule or the memory.
    NotImplementedError: a problem that these kernels cannot do.
  """
  supports(q, k, v, program)
  check_schedule(tiles.forward, schedule, schedule.index, "forward")
  memory = check(tiles, q, k, v, program).forward
  fold = decode.Fold.of(q, k, schedule)
  if fold is None:
    given = program.operands
    plan = _plan(program, given, tiles.forward, schedule.index, q, k, scale)
    return _forward(plan, q, k, v, sinks, given, schedule, memory)
  given = *map(fold.operand, program.operands), fold.numbers()
  rows = fold.queries(q)
  plan = _plan(program, given, tiles.forward, schedule.index, rows, k, scale)
  plan = dataclasses.replace(plan, rows=len(given) - 1)
  out, lse = _forward(plan, rows, k, v, None, given, schedule, memory)
  out, lse = fold.outputs(out), fold.outputs(lse)
  return (out, lse) if sinks is None else decode.with_sinks(out, lse, sinks)


def _forward(plan, q, k, v, sinks, given, schedule, memory):
  dtype = v.dtype
  q, k, v = (_computable(x) for x in (q, k, v))
  (B, T, N, H), (_, S, K, V) = q.shape, v.shape
  queries = plan.lists.lines * plan.block_q
  keys = layout.ceil_to(S, plan.block_k)
  out, lse = forward_kernel.call(
    plan,
    layout.pack(q, queries),
    layout.pack(k, keys),
    layout.pack(v, keys),
    sinks,
    tuple(operands.pack(x, o, queries, keys) for x, o in zip(given, plan.operands)),
    layout.flat(schedule.index, schedule.full, schedule.count),
    (B, N, K, queries, H, V),
    _limit(memory),
  )
  return layout.unpack(out, T, N).astype(dtype), lse[:, :, 0, :T].swapaxes(1, 2)


def _plan(program, given, tile, index, q, k, scale, keys_down=False) -> Plan:
  T, lists = q.shape[1], layout.Lists.of(index)
  if lists.lines == 1 and not keys_down:  # Fewer queries than a block take fewer rows.
    tile = tile.of_rows(layout.ceil_to(T, 16 if T < operands.LANES else operands.LANES))
  return Plan(
    T=T,
    S=k.shape[1],
    block_q=tile.block_q,
    block_k=tile.block_k,
    inner_q=tile.inner_q,
    inner_k=tile.inner_k,
    keys_down=keys_down,
    scale=scale,
    lists=lists,
    operands=operands.describe(given, program.score, program.keep),
    score=program.score,
    seen=program.seen,
    keep=program.keep,
    rows=-1,
    exact=q.dtype != jnp.bfloat16,
  )


def _limit(memory: int) -> int:
  """What is asked of the compiler, which has its own needs beside the estimate."""
  return memory + (8 << 20)


def backward(q, k, v, g, lse, delta, program, schedule, *, scale: float, tiles: Tiles):
  """The gradients of `forward`.

  Args:
    q: as given to `forward`, as are:
    k: (B, S, K, H).
    v: (B, S, K, V).
    program: of scores.
    scale: what q . k is multiplied by.
    g: (B, T, N, V), the cotangent of out.
    lse: (B, T, N) float32, of `forward`.
    delta: (B, T, N) float32, rowsum(g out) less the cotangent of lse.
    schedule: the blocks that the mask touches, in tiles of `tiles.backward`.
    tiles: how the work is cut.

  Returns:
    dq, dk, dv in their arrays' shapes and dtypes, and a tuple with the gradient of each
    of the program's operands: float32 in its shape, None for integers.

  Raises:
    ValueError: tiles that do not fit the shapes, the schedule or the memory.
    NotImplementedError: a problem that these kernels cannot do.
  """
  supports(q, k, v, program)
  check_schedule(tiles.backward, schedule, schedule.index_t, "backward")
  memory = check(tiles, q, k, v, program)
  dtypes = q.dtype, k.dtype, v.dtype
  q, k, v, g = (_computable(x) for x in (q, k, v, g.astype(v.dtype)))
  (B, T, N, H), (_, S, K, V) = q.shape, v.shape
  given = program.operands
  plan = _plan(program, given, tiles.backward, schedule.index_t, q, k, scale, True)
  queries = layout.ceil_to(T, plan.block_q)
  keys = plan.lists.lines * plan.block_k
  # What sees nothing, or is padding, weighs exp(score - inf) = 0.
  lse = jnp.where(jnp.isneginf(lse), jnp.inf, lse)
  if program.score is None:
    lse = lse * derivative.LOG2E
  dq, dk, dv, slopes = backward_kernel.call(
    plan,
    (
      layout.pack(q, queries),
      layout.pack(k, keys),
      layout.pack(v, keys),
      layout.pack(g, queries),
      _line(lse, queries, jnp.inf),
      _line(delta, queries, 0.0),
    ),
    tuple(operands.pack(x, o, queries, keys) for x, o in zip(given, plan.operands)),
    layout.flat(schedule.index_t, schedule.full_t, schedule.count_t),
    (B, N, K, queries, keys, H, V),
    memory.resident,
    _limit(memory.backward),
  )
  if memory.resident:
    dq = layout.unpack(dq, T, N)
  else:
    dq = (dq * scale).swapaxes(1, 2)[:, :T]
  dk, dv = layout.unpack(dk, S, K), layout.unpack(dv, S, K)
  found = (x.astype(dtype) for x, dtype in zip((dq, dk, dv), dtypes))
  return *found, tuple(
    operands.unpack(slope, x, o, T, S)
    for slope, x, o in zip(slopes, given, plan.operands, strict=True)
  )


def _line(x: jax.Array, queries: int, value: float) -> jax.Array:
  """(B, T, N) -> (B, N, 1, queries)."""
  return operands.pad(x.astype(jnp.float32).swapaxes(1, 2), 2, queries, value)[
    :, :, None
  ]


def _computable(x: jax.Array) -> jax.Array:
  """The matrix unit takes bfloat16 and float32."""
  return x.astype(jnp.float32) if x.dtype == jnp.float16 else x
