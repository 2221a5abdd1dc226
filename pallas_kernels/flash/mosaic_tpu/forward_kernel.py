"""The forward kernel: grid (B, N, steps of the lists, see `walk`), online softmax.

Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867)
and Dao et al., "FlashAttention" (arXiv:2205.14135); top is the largest score so far:
  total <- total exp(old top - top) + sum exp(score - top)
  acc   <- acc exp(old top - top) + exp(score - top) v
Where scores are bounded (`bounds`) top stays 0 until the end, where it becomes
log(total): it must not be below a row's scores.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import cost, layout, operands, unseen
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.subtile import Part, Plan, spread

# The initial top: finite, so that -inf - LOWEST is -inf and never NaN.
LOWEST = float(jnp.finfo(jnp.float32).min)


def call(plan: Plan, q, k, v, sinks, packed, lists, shapes, vmem: int):
  """Runs the kernel on packed arrays; `shapes` is (B, N, K, rows of queries, H, V).

  Returns:
    Packed out (B, N, rows, V); top and total, each (B, N, 1, rows).
  """
  B, N, K, rows, H, V = shapes
  group = N // K

  def whole(b, n, *step):
    visit = plan.lists.visit(step[3], b, n, *step[:3])
    return b, n, visit.row, visit.column

  def queries(*step):
    return whole(*step)[:3]

  def keys(b, n, *step):
    return b, jax.lax.div(n, group), whole(b, n, *step)[3]

  def lines(b, n, *step):
    return b, n, 0, whole(b, n, *step)[2]

  line = pl.BlockSpec((None, None, 1, plan.block_q), lines)
  out_shape = (
    jax.ShapeDtypeStruct((B, N, rows, V), v.dtype),
    *[jax.ShapeDtypeStruct((B, N, 1, rows), jnp.float32)] * 2,
  )
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    out_shape=out_shape,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(B, N, *plan.lists.grid),
      in_specs=[
        layout.spec(plan.block_q, H, queries),
        layout.spec(plan.block_k, H, keys),
        layout.spec(plan.block_k, V, keys),
        None if sinks is None else pl.BlockSpec(memory_space=pltpu.SMEM),
        tuple(
          operands.spec(o, plan.block_q, plan.block_k, whole) for o in plan.operands
        ),
      ],
      out_specs=[layout.spec(plan.block_q, V, queries), line, line],
      scratch_shapes=[
        pltpu.VMEM((plan.block_q, V), jnp.float32),
        pltpu.VMEM((plan.block_q, LANES), jnp.float32),
        None if plan.bounded else pltpu.VMEM((plan.block_q, LANES), jnp.float32),
        tuple(
          pltpu.VMEM((plan.block_q, LANES), o.dtype) if o.kind == "row" else None
          for o in plan.operands
        ),
      ],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=(*("parallel",) * 3, *("arbitrary",) * 2),
      vmem_limit_bytes=vmem,
    ),
    cost_estimate=cost.estimate(
      plan,
      B * N,
      H + V,
      (q, packed, out_shape),
      plan.block_k * (H + V) * k.dtype.itemsize,
    ),
    name="flash_forward",
  )(lists, q, k, v, sinks, packed)


def _kernel(plan, flat, q, k, v, sinks, given, *refs):
  out, last_top, last_total, acc, total, top, columns = refs
  b, *step = (pl.program_id(axis) for axis in range(5))
  n, _, i, j, line, block, first, last = plan.lists.visit(flat, b, *step)

  @pl.when(first)
  def _():
    acc[...] = jnp.zeros_like(acc)
    total[...] = jnp.zeros_like(total)
    if top is not None:
      top[...] = jnp.full_like(top, LOWEST)
    spread(given, columns)

  part = Part(plan, given, columns, b, n, i, j, 0, 0)

  def step(masked):
    parts = [dataclasses.replace(part, row=r, column=c) for r, c in plan.parts()]
    products = [_product(parts[0], q, k)]
    for number, own in enumerate(parts):
      if number + 1 < len(parts):
        products.append(_product(parts[number + 1], q, k))
      seen = own.seen() if masked else None
      _accumulate(own, products[number], seen, v[own.columns, :], acc, top, total)

  def guarded(own):
    seen = own.seen()
    (values,) = unseen.keys(own, seen, v[own.columns, :])
    _accumulate(own, _product(own, q, k), seen, values, acc, top, total)

  full, count = flat.full[line], flat.count[line]
  if plan.masks:
    pl.when(block < full)(lambda: step(masked=False))
    unseen.choose(
      plan,
      (block >= full) & (block < count),
      lambda: unseen.strange(v),
      lambda: step(masked=True),
      lambda: unseen.each(part, guarded),
    )
  else:
    pl.when(block < count)(lambda: step(masked=False))

  @pl.when(last)
  def _():
    # With queries along the lanes these steps are the least work.
    weight, shrink = total[...].T.sum(axis=0, keepdims=True), 1.0
    if plan.bounded:
      greatest = jnp.log(jnp.where(weight == 0, 1.0, weight))
      shrink = jnp.exp(-greatest)
    else:
      greatest = top[...].T[:1] * plan.unit
    more = 0.0
    if sinks is not None:  # A key whose value is zero.
      greatest = jnp.where(weight == 0, LOWEST, greatest)
      most = jnp.maximum(greatest, sinks[n])
      shrink, greatest = shrink * jnp.exp(greatest - most), most
      more = jnp.exp(sinks[n] - most)
    weight = weight * shrink + more
    empty = weight == 0
    share = jnp.where(empty, 0.0, shrink / jnp.where(empty, 1.0, weight))
    share = operands.across(operands.spread(share), acc.shape[1])
    out[...] = (acc[...] * share).astype(out.dtype)
    last_top[...] = jnp.where(empty, -jnp.inf, greatest)
    last_total[...] = weight


def _product(part, q, k):
  return part.plan.product(q[part.rows, :], k[part.columns, :], 1, 1)


def _accumulate(part, raw, seen, values, acc, top, total):
  plan, rows = part.plan, part.rows
  score = part.score(raw)
  if seen is not None:
    score = jnp.where(seen, score, -jnp.inf)
  if plan.bounded:
    weight, shrink = plan.power(score), None
  else:
    old = top[rows, :]
    new = jnp.maximum(old, score.max(axis=1, keepdims=True))
    weight = plan.power(score - operands.across(new, plan.inner_k))
    shrink = plan.power(old - new)
    top[rows, :] = new
  # Lane by lane: the sum over lanes waits until the end.
  lanes = range(0, plan.inner_k, LANES)
  gain = sum(weight[:, lane : lane + LANES] for lane in lanes)
  total[rows, :] = _shrunk(total[rows, :], shrink) + gain
  if plan.keep is not None:
    weight = weight * part.evaluate(plan.keep)
  gain = plan.product(weight.astype(values.dtype), values, 1, 0)
  acc[rows, :] = _shrunk(acc[rows, :], shrink) + gain


def _shrunk(sums, shrink):
  return sums if shrink is None else sums * operands.across(shrink, sums.shape[1])
