"""The backward kernel: grid (B, K, key block, head of the group, entry of its list).

Dao et al., "FlashAttention" (arXiv:2205.14135), algorithm 4, keys down the sublanes:
  weight = exp(score - lse)        dv += (keep weight) g
  slope  = weight (keep g.v - delta), through the score program by its own vjp
  dk += slope q                    dq += slope^T k
dk and dv of a key block gather in fast memory while its queries pass. So does dq of all
queries of a group until all key blocks have passed; where those are too many, each step
fetches its dq from the device's memory, adds and writes it back behind the next step's
products. Five products a tile either way, no atomics.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import (
  derivative,
  gathering,
  layout,
  operands,
  slopes,
)
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.part import Part, Plan, spread


@dataclasses.dataclass(frozen=True)
class _Refs:
  """The kernel's memory, by name."""

  blank: Any  # The blank cells' arrays and dq's, which the outputs take over.
  dq: Any
  dk: Any
  dv: Any
  slopes: tuple
  dq_sum: Any
  dk_sum: Any
  dv_sum: Any
  columns: tuple
  gathered: tuple
  transfer: Any


def call(plan: Plan, arrays, packed, lists, shapes, resident: bool, vmem: int):
  """Runs the kernel on packed arrays.

  Args:
    plan: what it is compiled for.
    arrays: q, k, v, g packed, and lse and delta (B, N, 1, queries).
    packed: the program's operands.
    lists: flat block lists.
    shapes: (B, N, K, rows of queries, rows of keys, H, V).
    resident: dq gathers in fast memory.
    vmem: the bytes of fast memory that may be used.

  Returns:
    dq packed, or (B, N, queries, H) float32 unscaled if not resident; dk and dv packed;
    for each operand its gradient for each (B, N), or None.
  """
  B, N, K, queries, keys, H, V = shapes
  group = N // K
  where = functools.partial(_where, plan.lists, group)
  described = [slopes.describe(o, plan, shapes[:5], where) for o in plan.operands]
  dq, dq_spec = gathering.describe(shapes, arrays[0].dtype, resident)
  blank = (
    None if resident else jnp.zeros(dq.shape, dq.dtype),
    tuple(slopes.blank(o, s) for o, (s, _) in zip(plan.operands, described)),
  )
  key_specs = _key_specs(plan, H, V)
  out_shape = (
    dq,
    jax.ShapeDtypeStruct(layout.shape(B, keys, K, H), arrays[1].dtype),
    jax.ShapeDtypeStruct(layout.shape(B, keys, K, V), arrays[2].dtype),
    tuple(shape for shape, _ in described),
  )
  arguments = (*lists, *arrays, packed, blank)
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    out_shape=out_shape,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(lists),
      grid=(B, K, plan.lists.lines, group, plan.lists.length),
      in_specs=_in_specs(plan, H, V, where, key_specs, blank),
      out_specs=(dq_spec, *key_specs, tuple(spec for _, spec in described)),
      scratch_shapes=_scratch(plan, shapes, resident),
    ),
    input_output_aliases=_aliases(arguments, blank, out_shape),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", *("arbitrary",) * 3),
      vmem_limit_bytes=vmem,
    ),
    name="flash_backward",
  )(*arguments)


def _where(lists, group, b, h, j, member, m, index, *_):
  """(b, n, i, j) of a grid step."""
  n = h * group + member
  return b, n, lists.entry(index, b, n, j, m), j


def _in_specs(plan, H, V, where, key_specs, blank):
  def queries(*step):
    return where(*step)[:3]

  def line(*step):
    b, n, i, _ = where(*step)
    return b, n, 0, i

  lines = pl.BlockSpec((None, None, 1, plan.block_q), line)
  return [
    layout.spec(plan.block_q, H, queries),
    *key_specs,
    layout.spec(plan.block_q, V, queries),
    lines,
    lines,
    tuple(operands.spec(o, plan.block_q, plan.block_k, where) for o in plan.operands),
    jax.tree.map(lambda _: pl.BlockSpec(memory_space=pl.ANY), blank),
  ]


def _key_specs(plan, H, V):
  def keys(b, h, j, *_):
    return b, h, j

  return layout.spec(plan.block_k, H, keys), layout.spec(plan.block_k, V, keys)


def _scratch(plan, shapes, resident):
  _, N, K, queries, _, H, V = shapes
  block_q, block_k = plan.block_q, plan.block_k
  transfer = (
    pltpu.VMEM((block_q, H), jnp.float32),
    pltpu.SemaphoreType.DMA((2,)),
    pltpu.SMEM((1,), jnp.int32),
  )
  return [
    pltpu.VMEM((N // K, queries, H) if resident else (1, block_q, H), jnp.float32),
    pltpu.VMEM((block_k, H), jnp.float32),
    pltpu.VMEM((block_k, V), jnp.float32),
    tuple(
      pltpu.VMEM((block_k, LANES), o.dtype) if o.kind == "column" else None
      for o in plan.operands
    ),
    tuple(slopes.scratch(o, plan) for o in plan.operands),
    None if resident else transfer,
  ]


def _aliases(arguments, blank, out_shape) -> dict[int, int]:
  """From each blank array to the output that takes it over, as flat numbers."""
  given = len(jax.tree.leaves(arguments)) - len(jax.tree.leaves(blank))
  dq, cells = blank
  taken = [dq, None, None, *cells]
  aliases, made = {}, 0
  for array, shape in zip(taken, (*out_shape[:3], *out_shape[3]), strict=True):
    if array is not None:
      aliases[given] = made
      given += 1
    made += shape is not None
  return aliases


def _kernel(plan, index, full, count, q, k, v, g, lse, delta, given, *refs):
  refs = _Refs(*refs)
  b, h, j, member, m = (pl.program_id(axis) for axis in range(5))
  group, blocks = pl.num_programs(3), pl.num_programs(2)
  n = h * group + member
  entries = plan.lists.line(b, n, j)
  i = plan.lists.entry(index, b, n, j, m)
  first_of_key = (member == 0) & (m == 0)
  first_of_group = first_of_key & (j == 0)
  last_of_head = m == pl.num_programs(4) - 1
  last_of_key = last_of_head & (member == group - 1)
  slopes.start(plan, refs.slopes, refs.gathered, first_of_group, m == 0)

  @pl.when(first_of_key)
  def _():
    refs.dk_sum[...] = jnp.zeros_like(refs.dk_sum)
    refs.dv_sum[...] = jnp.zeros_like(refs.dv_sum)

  @pl.when(m == 0)
  def _():
    spread(given, refs.columns)

  @pl.when(first_of_group)
  def _():
    if refs.transfer is None:
      refs.dq_sum[...] = jnp.zeros_like(refs.dq_sum)
    else:
      refs.transfer[2][0] = 0

  def step(masked):
    if refs.transfer is not None:
      gathering.fetch(plan, refs, b, n, i)
    for row, column in plan.parts():
      part = Part(plan, given, refs.columns, b, n, i, j, row, column)
      weight, slope, pulled = derivative.differentiate(
        part, masked, q, k, v, g, lse, delta
      )
      _accumulate(
        part, member, weight.astype(g.dtype), slope.astype(q.dtype), q, k, g, refs
      )
      for number, tile in pulled.items():
        slopes.add(part, member, number, tile, refs.slopes, refs.gathered)
    if refs.transfer is not None:
      gathering.put_back(plan, refs, b, n, i)

  if plan.masks:
    pl.when(m < full[entries])(lambda: step(masked=False))
    pl.when((m >= full[entries]) & (m < count[entries]))(lambda: step(masked=True))
  else:
    pl.when(m < count[entries])(lambda: step(masked=False))
  unseen = (m == 0) & (count[entries] == 0)
  slopes.finish(plan, refs.slopes, refs.gathered, last_of_head, unseen)

  @pl.when(last_of_key)
  def _():
    refs.dk[...] = (refs.dk_sum[...] * plan.scale).astype(refs.dk.dtype)
    refs.dv[...] = refs.dv_sum[...].astype(refs.dv.dtype)

  @pl.when(last_of_key & (j == blocks - 1))
  def _():
    if refs.transfer is None:
      gathering.write(plan, refs.dq, refs.dq_sum)
    else:
      gathering.settle(plan, refs, b, n, i)


def _accumulate(part, member, weight, slope, q, k, g, refs):
  plan, rows, columns = part.plan, part.rows, part.columns
  refs.dv_sum[columns, :] += plan.product(weight, g[rows, :], 1, 0)
  refs.dk_sum[columns, :] += plan.product(slope, q[rows, :], 1, 0)
  change = plan.product(slope, k[columns, :], 0, 0)
  if refs.transfer is None:
    first = pl.multiple_of(part.i * plan.block_q + part.row, LANES)
    refs.dq_sum[member, pl.ds(first, plan.inner_q), :] += change
  elif part.column == 0:
    refs.dq_sum[0, rows, :] = change
  else:
    refs.dq_sum[0, rows, :] += change
