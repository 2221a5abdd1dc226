"""Statistics of softmax weights on TPUs: Pallas kernels for Mosaic."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import calling
from pallas_kernels.flash import mosaic_tpu as flash
from pallas_kernels.flash.mosaic_tpu import cost, layout, lists, operands, subtile, walk
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.tiles import Tiles, check_schedule
from pallas_kernels.softmax_statistics import mosaic_tpu_kernel as kernels


def supports(q, k, program) -> None:
  """Raises NotImplementedError, with the reason, if the kernels cannot do a problem."""
  flash.supports(q, k, k, program)


def fitting(q, k, program) -> Tiles:
  """Returns the tiles of attention, whose loops these are, on the target device."""
  return flash.fitting(q, k, k, program)


def forward(q, k, lse, program, schedule, *, which: str, scale: float, tiles: Tiles):
  """Computes the statistics.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H).
    lse: (B, T, N) float32.
    program: the scores' program.
    schedule: of `tiles.backward_blocks` for columns, of `forward_blocks` for rows.
    which: "columns" or "rows".
    scale: what q . k is multiplied by.
    tiles: those of attention.

  Returns:
    (columns (B, N, S) float32), or (argmax int32, entropy float32), each (B, T, N).

  Raises:
    ValueError: if tiles do not fit the shapes, the schedule or the memory.
  """
  down = which == "columns"
  tile = tiles.backward if down else tiles.forward
  index = schedule.index_t if down else schedule.index
  check_schedule(tile, schedule, index, "backward" if down else "forward")
  memory = flash.check(tiles, q, k, k, program)
  vmem = (memory.backward if down else memory.forward) + (8 << 20)

  def run(arrays, program, schedule):
    return _call(*arrays, program, schedule, scale, tile, down, vmem), ()

  return lists.in_turn(run, (q, k, lse), program, schedule, index)[0]


def _call(q, k, lse, program, schedule, scale, tile, down: bool, vmem: int):
  q, k = (x.astype(jnp.float32) if x.dtype == jnp.float16 else x for x in (q, k))
  (B, T, N, H), S, given = q.shape, k.shape[1], program.operands
  plan = subtile.plan(program, given, tile, schedule, q, k, scale, down)
  pairs = list(zip(given, plan.operands, strict=True))
  packed = tuple(operands.pack(x, o, plan.queries, plan.keys) for x, o in pairs)
  arrays = layout.pack(q, plan.queries), layout.pack(k, plan.keys), _line(lse, plan)
  if down:
    flat = schedule.index_t, schedule.full_t, schedule.count_t, schedule.walk_t
    outputs, grid = [(plan.block_k, plan.keys, jnp.float32)], k.shape[2]
  else:
    flat = schedule.index, schedule.full, schedule.count, schedule.walk
    types = jnp.int32, jnp.float32
    outputs, grid = [(plan.block_q, plan.queries, t) for t in types], N
  where = functools.partial(_where, plan, down)
  lines = [
    pl.BlockSpec((None, None, 1, block), functools.partial(_line_of, where, down))
    for block, _, _ in outputs
  ]
  shapes = tuple(jax.ShapeDtypeStruct((B, N, 1, n), t) for _, n, t in outputs)
  found = pl.pallas_call(
    functools.partial(kernels.columns if down else kernels.rows, plan),
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(B, grid, *plan.lists.grid),
      in_specs=[
        layout.spec(plan.block_q, H, lambda *step: where(*step)[:3]),
        layout.spec(plan.block_k, H, functools.partial(_keys, where, N // k.shape[2])),
        pl.BlockSpec((None, None, 1, plan.block_q), functools.partial(_queries, where)),
        tuple(operands.spec(o, plan.block_q, plan.block_k, where) for _, o in pairs),
      ],
      out_specs=lines,
      scratch_shapes=_scratch(plan, down),
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel",) * 2 + ("arbitrary",) * 3,
      vmem_limit_bytes=vmem,
    ),
    cost_estimate=cost.estimate(plan, B * N, H, (arrays, packed, shapes), 0),
    name=f"softmax_{'columns' if down else 'rows'}",
  )(walk.flat(plan.lists, *flat), *arrays, packed)
  if down:
    return (found[0][:, :, 0, :S],)
  return tuple(x[:, :, 0, :T].swapaxes(1, 2) for x in found)


def _where(plan, down, b, h, *step):
  """Returns the (b, n, i, j) of a grid step: entry, head, query and key tile."""
  visit = plan.lists.visit(step[3], b, h, *step[:3])
  pair = (visit.column, visit.row) if down else (visit.row, visit.column)
  return b, visit.n, *pair


def _keys(where, group, *step):
  b, n, _, j = where(*step)
  return b, jax.lax.div(n, group), j


def _queries(where, *step):
  b, n, i, _ = where(*step)
  return b, n, 0, i


def _line_of(where, down, *step):
  b, n, i, j = where(*step)
  return b, n, 0, j if down else i


def _line(lse, plan):
  """Returns lse (B, N, 1, queries), +inf where a query has no weight."""
  lse = jnp.where(lse == -jnp.inf, jnp.inf, lse.astype(jnp.float32)).swapaxes(1, 2)
  return operands.pad(lse, 2, plan.queries, jnp.inf)[:, :, None]


def _scratch(plan, down: bool):
  """Returns the shapes of the kernel's scratch memory."""
  size, kind = (plan.block_k, "column") if down else (plan.block_q, "row")
  spreads = tuple(
    pltpu.VMEM((size, LANES), o.dtype) if o.kind == kind else None
    for o in plan.operands
  )
  sums = pltpu.VMEM((size, LANES), jnp.float32)
  if down:
    return [sums, spreads]
  return [sums, pltpu.VMEM((size, LANES), jnp.int32), sums, sums, spreads]


def backward(*arrays, **constants):
  """Raises NotImplementedError: derivatives are those of the plain form."""
  raise NotImplementedError("the statistics' derivatives are in plain JAX")


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting, walk.prepared)
