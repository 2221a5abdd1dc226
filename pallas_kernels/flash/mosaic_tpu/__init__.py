"""Softmax attention on TPUs: Pallas kernels for Mosaic, forward and backward.

Dao et al., "FlashAttention" (arXiv:2205.14135), over lists of the blocks that a mask
touches (FlexAttention's block masks, arXiv:2412.05496).
"""

import dataclasses

import jax
import jax.numpy as jnp

from attnjax.core.platform import target_kind, target_platform
from attnjax.core.softmax import with_sinks
from pallas_kernels import calling
from pallas_kernels.flash.mosaic_tpu import (
  backward_kernel,
  few_queries,
  forward_kernel,
  layout,
  lists,
  operands,
  subtile,
  walk,
)
from pallas_kernels.flash.mosaic_tpu.memory import estimate
from pallas_kernels.flash.mosaic_tpu.tiles import (
  Tile,
  Tiles,
  check,
  check_schedule,
  defaults,
  supports,
)
from pallas_kernels.flash.mosaic_tpu.walk import prepared

__all__ = ["KERNEL", "Tile", "Tiles", "backward", "check", "defaults"]
__all__ += ["estimate", "fitting", "forward", "prepared", "supports"]


def fitting(q, k, v, program) -> Tiles:
  """Returns default tiles for arrays, or their shapes, on the target device.

  Raises:
    NotImplementedError: if not even the smallest tiles fit in VMEM.
  """
  kind = target_kind() if target_platform() == "tpu" else ""
  tiles = defaults(q, k, v, program, kind)
  needed = estimate(tiles, q, k, v, program)
  if max(needed.forward, needed.backward) > tiles.memory:
    raise NotImplementedError(
      f"heads of {q.shape[3]} and {v.shape[3]} numbers, {q.dtype}, with this bias or"
      f" mask need {max(needed.forward, needed.backward) / 2**20:.1f} MiB of fast"
      f" memory, more than {tiles.memory / 2**20:.1f}, in the smallest tiles"
    )
  return tiles


def forward(q, k, v, sinks, program, schedule, *, scale: float, tiles: Tiles):
  """Computes attention and the maximum and sum that normalise its softmax.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H); query head n reads key head n div (N/K).
    v: (B, S, K, V).
    sinks: (N,) float32 scores that weigh without a value, or None.
    program: the scores' program, see `attnjax.core.scores.Program`.
    schedule: the blocks that the mask touches, of whole tiles of `tiles.forward`.
    scale: what q . k is multiplied by.
    tiles: tile sizes of both kernels.

  Returns:
    out (B, T, N, V) in v's dtype; top, each row's greatest score, and total, its sum of
    exp(score - top) with the sink's term, (B, T, N) float32. A query that sees nothing
    has out = 0, top = -inf and total = 0.

  Raises:
    ValueError: if tiles do not fit the shapes, the schedule or the memory.
    NotImplementedError: if these kernels cannot do the problem.
  """
  supports(q, k, v, program)
  check_schedule(tiles.forward, schedule, schedule.index, "forward")
  memory = check(tiles, q, k, v, program).forward

  def run(arrays, program, schedule):
    return _folded(*arrays, sinks, program, schedule, scale, tiles, memory), ()

  return lists.in_turn(run, (q, k, v), program, schedule, schedule.index)[0]


def _folded(q, k, v, sinks, program, schedule, scale, tiles, memory):
  fold = few_queries.Fold.of(q, k, schedule)
  if fold is None:
    given = program.operands
    plan = subtile.plan(program, given, tiles.forward, schedule, q, k, scale)
    return _forward(plan, q, k, v, sinks, given, schedule, memory)
  given = *map(fold.operand, program.operands), fold.numbers()
  rows = fold.queries(q)
  plan = subtile.plan(program, given, tiles.forward, schedule, rows, k, scale)
  plan = dataclasses.replace(plan, rows=len(given) - 1)
  found = _forward(plan, rows, k, v, None, given, schedule, memory)
  out, top, total = with_sinks(*map(fold.outputs, found), sinks)
  return out.astype(v.dtype), top, total


def _forward(plan, q, k, v, sinks, given, schedule, memory):
  dtype = v.dtype
  q, k, v = (_computable(x) for x in (q, k, v))
  (B, T, N, H), K, V = q.shape, k.shape[2], v.shape[3]
  packed = zip(given, plan.operands, strict=True)
  out, *lines = forward_kernel.call(
    plan,
    layout.pack(q, plan.queries),
    layout.pack(k, plan.keys),
    layout.pack(v, plan.keys),
    sinks,
    tuple(operands.pack(x, o, plan.queries, plan.keys) for x, o in packed),
    walk.flat(plan.lists, schedule.index, schedule.full, schedule.count, schedule.walk),
    (B, N, K, plan.queries, H, V),
    _limit(memory),
  )
  top, total = (line[:, :, 0, :T].swapaxes(1, 2) for line in lines)
  return layout.unpack(out, T).astype(dtype), top, total


def _limit(memory: int) -> int:
  """Returns the VMEM limit for the compiler, whose own needs exceed the estimate."""
  return memory + (8 << 20)


def backward(
  q, k, v, g, top, total, delta, program, schedule, *, scale: float, tiles: Tiles
):
  """Computes the gradients of `forward`.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H).
    v: (B, S, K, V).
    g: (B, T, N, V), the cotangent of out.
    top: (B, T, N) float32, from `forward`.
    total: (B, T, N) float32, from `forward`.
    delta: (B, T, N) float32, rowsum(g out) less total times its cotangent.
    program: as in `forward`.
    schedule: the blocks that the mask touches, of whole tiles of `tiles.backward`.
    scale: what q . k is multiplied by.
    tiles: tile sizes of both kernels.

  Returns:
    dq, dk, dv in the shapes and dtypes of q, k, v, and a tuple with the gradient of
    each of the program's operands: float32 in its shape, None for integers.

  Raises:
    ValueError: if tiles do not fit the shapes, the schedule or the memory.
    NotImplementedError: if these kernels cannot do the problem.
  """
  supports(q, k, v, program)
  check_schedule(tiles.backward, schedule, schedule.index_t, "backward")
  memory = check(tiles, q, k, v, program)

  def run(arrays, program, schedule):
    return _backward(*arrays, program, schedule, scale, tiles, memory)

  arrays = q, k, v, g, top, total, delta
  found, slopes = lists.in_turn(run, arrays, program, schedule, schedule.index_t)
  return *found, slopes


def _backward(q, k, v, g, top, total, delta, program, schedule, scale, tiles, memory):
  dtypes = q.dtype, k.dtype, v.dtype
  q, k, v, g = (_computable(x) for x in (q, k, v, g.astype(v.dtype)))
  (B, T, N, H), (_, S, K, V) = q.shape, v.shape
  given = program.operands
  plan = subtile.plan(program, given, tiles.backward, schedule, q, k, scale, True)
  packed = zip(given, plan.operands, strict=True)
  dq, dk, dv, slopes = backward_kernel.call(
    plan,
    (
      layout.pack(q, plan.queries),
      layout.pack(k, plan.keys),
      layout.pack(v, plan.keys),
      layout.pack(g, plan.queries),
      _lines(plan, top, total, delta),
    ),
    tuple(operands.pack(x, o, plan.queries, plan.keys) for x, o in packed),
    walk.flat(
      plan.lists, schedule.index_t, schedule.full_t, schedule.count_t, schedule.walk_t
    ),
    (B, N, K, plan.queries, plan.keys, H, V),
    memory.resident,
    _limit(memory.backward),
  )
  dq = layout.unpack(dq if memory.resident else dq * scale, T)
  dk, dv = layout.unpack(dk, S), layout.unpack(dv, S)
  found = tuple(x.astype(dtype) for x, dtype in zip((dq, dk, dv), dtypes))
  return found, tuple(
    operands.unpack(slope, x, o, T, S)
    for slope, x, o in zip(slopes, given, plan.operands, strict=True)
  )


def _lines(plan, top, total, delta):
  """Returns (top, 1 / total, delta) for the kernel, each (B, N, 1, queries)."""
  # Rows that see nothing, and padding, have the weight exp(score - inf) = 0.
  top = jnp.where(total > 0, top / plan.unit, jnp.inf)
  share = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1.0), 0.0)

  def line(x, value):
    x = x.astype(jnp.float32).swapaxes(1, 2)
    return operands.pad(x, 2, plan.queries, value)[:, :, None]

  return line(top, jnp.inf), line(share, 0.0), line(delta, 0.0)


def _computable(x: jax.Array) -> jax.Array:
  """Upcasts float16 to float32: the matrix unit takes bfloat16 and float32."""
  return x.astype(jnp.float32) if x.dtype == jnp.float16 else x


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting, prepared)
