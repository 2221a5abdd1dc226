"""The backward kernel: grid (B, K, steps of the lists of key tiles, see `walk`).

Dao et al., "FlashAttention" (arXiv:2205.14135), algorithm 4, keys down the sublanes:
  weight = exp(min(score - top, 0)) / total    dv += (keep weight) g
  slope  = weight (keep g.v - delta), through the score program by its own vjp
  dk += slope q                                dq += slope^T k
dk and dv of a key tile accumulate in VMEM while its queries pass. So does dq of all
queries of a group until all key tiles have passed; where it has no room in VMEM, each
step fetches its tile of dq from HBM, adds to it and writes it back behind the next
step's products. Either way takes five products a tile and no atomics.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import (
  backward_specs,
  cost,
  derivative,
  dq_copies,
  unseen,
)
from pallas_kernels.flash.mosaic_tpu import operand_gradients as gradients
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.subtile import Part, Plan, spread


@dataclasses.dataclass(frozen=True)
class _Refs:
  """The kernel's outputs and scratch memory, by name."""

  blank: Any  # Zeros whose buffers the outputs dq and the cells' gradients reuse.
  dq: Any
  dk: Any
  dv: Any
  slopes: tuple
  dq_sum: Any
  dk_sum: Any
  dv_sum: Any
  columns: tuple
  scratches: tuple
  transfer: Any  # Scratch memory for a dq that accumulates in HBM, or None.
  strange: Any  # Whether the tile's keys or values are strange, see `unseen`.


def call(plan: Plan, arrays, packed, lists, shapes, resident: bool, vmem: int):
  """Runs the kernel on packed arrays.

  Args:
    plan: the kernel's static parameters.
    arrays: packed q, k, v, g, and (top, 1 / total, delta), each (B, N, 1, queries).
    packed: the program's operands, packed.
    lists: flat block lists.
    shapes: (B, N, K, rows of queries, rows of keys, H, V).
    resident: whether dq accumulates in VMEM.
    vmem: bytes of VMEM that may be used.

  Returns:
    Packed dq, in float32 and unscaled if it is not resident; packed dk and dv; for each
    operand its gradient as `operand_gradients.describe` says, or None.
  """
  B, N, K, queries, keys, H, V = shapes
  where = functools.partial(backward_specs.where, plan.lists)
  how = gradients.ways(plan, shapes[:5])
  described = [
    gradients.describe(o, w, plan, shapes[:5], where)
    for o, w in zip(plan.operands, how)
  ]
  dq, dq_spec = dq_copies.describe(shapes, arrays[0].dtype, resident)
  blank = (
    None if resident else jnp.zeros(dq.shape, dq.dtype),
    tuple(gradients.blank(w, s) for w, (s, _) in zip(how, described)),
  )
  key_specs = backward_specs.key_specs(plan, H, V, where)
  out_shape = (
    dq,
    jax.ShapeDtypeStruct((B, K, keys, H), arrays[1].dtype),
    jax.ShapeDtypeStruct((B, K, keys, V), arrays[2].dtype),
    tuple(shape for shape, _ in described),
  )
  arguments = (lists, *arrays, packed, blank)
  return pl.pallas_call(
    functools.partial(_kernel, plan, how),
    out_shape=out_shape,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(B, K, *plan.lists.grid),
      in_specs=backward_specs.in_specs(plan, H, V, where, key_specs, blank),
      out_specs=(dq_spec, *key_specs, tuple(spec for _, spec in described)),
      scratch_shapes=backward_specs.scratch(plan, how, shapes, resident),
    ),
    input_output_aliases=backward_specs.aliases(arguments, blank, out_shape),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=(
        *gradients.order(plan.operands, how),
        *("arbitrary",) * 3,
      ),
      vmem_limit_bytes=vmem,
    ),
    cost_estimate=cost.estimate(
      plan,
      B * N,
      3 * H + 2 * V,
      (arrays[1:3], packed, out_shape),
      plan.block_q * (H + V) * arrays[0].dtype.itemsize,
    ),
    name="flash_backward",
  )(*arguments)


def _kernel(plan, how, flat, q, k, v, g, lines, given, *refs):
  refs = _Refs(*refs)
  b, h, *step = (pl.program_id(axis) for axis in range(5))
  n, member, j, i, line, block, first_of_head, last_of_head = plan.lists.visit(
    flat, b, h, *step
  )
  first_of_key = (member == 0) & first_of_head
  first_of_group = first_of_key & (j == 0)
  first_of_batch = first_of_group & (h == 0)
  last_of_key = last_of_head & (member == plan.lists.group - 1)
  last_of_group = last_of_key & (j == plan.lists.rows - 1)
  slopes = gradients.Slopes(plan, how, refs.slopes, refs.scratches, (b, n, i, j))
  slopes.start(first_of_head, first_of_group, first_of_batch, first_of_batch & (b == 0))
  outside = None
  if refs.transfer is not None:
    outside = dq_copies.Gathering(refs.dq, *refs.transfer)
  here = n * (plan.queries // plan.block_q) + i, dq_copies.queries(plan, b, n, i)

  @pl.when(first_of_key)
  def _():
    refs.dk_sum[...] = jnp.zeros_like(refs.dk_sum)
    refs.dv_sum[...] = jnp.zeros_like(refs.dv_sum)
    if plan.seen is not None:  # The test runs beside the zeroing.
      refs.strange[0] = unseen.strange(k, v).astype(jnp.int32)

  @pl.when(first_of_head)
  def _():
    spread(given, refs.columns)

  @pl.when(first_of_group)
  def _():
    if outside is None:
      refs.dq_sum[...] = jnp.zeros_like(refs.dq_sum)
    else:
      outside.begin()

  part = Part(plan, given, refs.columns, b, n, i, j, 0, 0)
  arrays = derivative.Arrays(q, k, v, g)

  def one(own, used, counts=None, finite=True):
    found = derivative.differentiate(own, counts, finite, used, lines)
    _accumulate(own, member, found, used, refs)
    for number, tile in found.pulled.items():
      slopes.add(own, member, number, tile)

  def quick(masked):
    for row, column in plan.parts():
      own = dataclasses.replace(part, row=row, column=column)
      one(own, arrays.of(own), own.seen() if masked else None)

  def guarded(own):
    seen = own.seen()
    one(own, arrays.of(own).without(own, seen), seen, finite=False)

  def step(parts):
    if outside is not None:
      outside.fetch(*here)
    slopes.fetch()
    parts()
    slopes.put_back()
    if outside is not None:
      outside.arrived(here[1])[...] += refs.dq_sum[0]
      outside.put_back(*here)

  def slow():
    if outside is not None:
      refs.dq_sum[...] = jnp.zeros_like(refs.dq_sum)
    slopes.arrive()
    unseen.each(part, guarded)

  full, count = flat.full[line], flat.count[line]
  if plan.masks:
    pl.when(block < full)(lambda: step(lambda: quick(masked=False)))
    unseen.choose(
      plan,
      (block >= full) & (block < count),
      lambda: (refs.strange[0] > 0) | unseen.strange(q, lines[2], factor=g),
      lambda: step(lambda: quick(masked=True)),
      lambda: step(slow),
    )
  else:
    pl.when(block < count)(lambda: step(lambda: quick(masked=False)))
  slopes.finish(last_of_head, last_of_group, first_of_head & (count == 0))

  @pl.when(last_of_key)
  def _():
    refs.dk[...] = (refs.dk_sum[...] * plan.scale).astype(refs.dk.dtype)
    refs.dv[...] = refs.dv_sum[...].astype(refs.dv.dtype)

  @pl.when(last_of_group)
  def _():
    if outside is None:
      dq_copies.write(plan, refs.dq, refs.dq_sum)
    else:
      outside.settle(here[1])


def _accumulate(part, member, found, used, refs):
  plan, rows, columns = part.plan, part.rows, part.columns
  kept, slope = found.kept.astype(used.g.dtype), found.slope.astype(used.q.dtype)
  refs.dv_sum[columns, :] += plan.product(kept, used.g, 1, 0)
  refs.dk_sum[columns, :] += plan.product(slope, used.q, 1, 0)
  change = plan.product(slope, used.k, 0, 0)
  if refs.transfer is None:
    first = pl.multiple_of(part.i * plan.block_q + part.row, LANES)
    refs.dq_sum[member, pl.ds(first, plan.inner_q), :] += change
  elif isinstance(part.column, int) and part.column == 0:
    refs.dq_sum[0, rows, :] = change
  else:
    refs.dq_sum[0, rows, :] += change
