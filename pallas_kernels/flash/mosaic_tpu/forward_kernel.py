"""The forward kernel: grid (B, N, query block, entry of its list), online softmax.

Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867)
and Dao et al., "FlashAttention" (arXiv:2205.14135); top is the largest score so far:
  total <- total exp(old top - top) + sum exp(score - top)
  acc   <- acc exp(old top - top) + exp(score - top) v
Without a score program, scores are in units of ln 2, so that the exponential is 2^x.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import layout, operands
from pallas_kernels.flash.mosaic_tpu.derivative import LOG2E
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.part import Part, Plan, spread

# The top of no scores at all: finite, so that -inf less it is -inf and never NaN.
LOWEST = -0.7 * float(jnp.finfo(jnp.float32).max)


def call(plan: Plan, q, k, v, sinks, packed, lists, shapes, vmem: int):
  """Runs the kernel on packed arrays; `shapes` is (B, N, K, rows of queries, H, V).

  Returns:
    Packed out and lse (B, N, 1, rows).
  """
  B, N, K, rows, H, V = shapes
  group = N // K

  def key_block(b, n, i, m, index, *_):
    return plan.lists.entry(index, b, n, i, m)

  def whole(b, n, i, m, *lists):
    return b, n, i, key_block(b, n, i, m, *lists)

  def queries(b, n, i, m, *_):
    return b, n, i

  def keys(b, n, i, m, *lists):
    return b, jax.lax.div(n, group), key_block(b, n, i, m, *lists)

  line = pl.BlockSpec(
    (None, None, 1, plan.block_q), lambda b, n, i, m, *_: (b, n, 0, i)
  )
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    out_shape=(
      jax.ShapeDtypeStruct(layout.shape(B, rows, N, V), v.dtype),
      jax.ShapeDtypeStruct((B, N, 1, rows), jnp.float32),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=(B, N, plan.lists.lines, plan.lists.length),
      in_specs=[
        layout.spec(plan.block_q, H, queries),
        layout.spec(plan.block_k, H, keys),
        layout.spec(plan.block_k, V, keys),
        None if sinks is None else pl.BlockSpec(memory_space=pltpu.SMEM),
        tuple(
          operands.spec(o, plan.block_q, plan.block_k, whole) for o in plan.operands
        ),
      ],
      out_specs=[layout.spec(plan.block_q, V, queries), line],
      scratch_shapes=[
        pltpu.VMEM((plan.block_q, V), jnp.float32),
        pltpu.VMEM((plan.block_q, LANES), jnp.float32),
        pltpu.VMEM((plan.block_q, LANES), jnp.float32),
        tuple(
          pltpu.VMEM((plan.block_q, LANES), o.dtype) if o.kind == "row" else None
          for o in plan.operands
        ),
      ],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=vmem,
    ),
    name="flash_forward",
  )(*lists, q, k, v, sinks, packed)


def _kernel(
  plan, index, full, count, q, k, v, sinks, given, out, lse, acc, top, total, columns
):
  b, n, i, m = (pl.program_id(axis) for axis in range(4))
  unit = LOG2E if plan.score is None else 1.0
  entries = plan.lists.line(b, n, i)

  @pl.when(m == 0)
  def _():
    acc[...] = jnp.zeros_like(acc)
    # A sink is a key that was seen first, with a value of zero. One lane holds its
    # weight: a total is the sum over its lanes.
    first = LOWEST if sinks is None else sinks[n] * unit
    top[...] = jnp.full_like(top, first)
    lane = jax.lax.broadcasted_iota(jnp.int32, total.shape, 1)
    total[...] = jnp.where((lane == 0) & (sinks is not None), 1.0, 0.0)
    spread(given, columns)

  def step(masked):
    j = plan.lists.entry(index, b, n, i, m)
    parts = [Part(plan, given, columns, b, n, i, j, *at) for at in plan.parts()]
    products = [_product(parts[0], q, k)]
    for number, part in enumerate(parts):
      if number + 1 < len(parts):
        products.append(_product(parts[number + 1], q, k))
      _accumulate(part, products[number], masked, v, acc, top, total)

  if plan.masks:
    pl.when(m < full[entries])(lambda: step(masked=False))
    pl.when((m >= full[entries]) & (m < count[entries]))(lambda: step(masked=True))
  else:
    pl.when(m < count[entries])(lambda: step(masked=False))

  @pl.when(m == pl.num_programs(3) - 1)
  def _():
    weight = total[...].sum(axis=1, keepdims=True)
    empty = weight == 0
    share = jnp.where(empty, 0.0, 1 / jnp.where(empty, 1.0, weight))
    out[...] = (acc[...] * share).astype(out.dtype)
    sum_ = top[...] * (1 / unit) + jnp.log(weight)
    lse[...] = jnp.where(empty, -jnp.inf, sum_).T[:1]


def _product(part, q, k):
  return part.plan.product(q[part.rows, :], k[part.columns, :], 1, 1)


def _accumulate(part, raw, masked, v, acc, top, total):
  plan, rows, columns = part.plan, part.rows, part.columns
  if plan.score is None:
    score = raw * (plan.scale * LOG2E)
  else:
    score = part.evaluate(plan.score, raw * plan.scale)
  if masked:
    score = jnp.where(part.seen(), score, -jnp.inf)
  old = top[rows, :]
  new = jnp.maximum(old, score.max(axis=1, keepdims=True))
  power = jnp.exp2 if plan.score is None else jnp.exp
  weight = power(score - operands.across(new, plan.inner_k))
  shrink = power(old - new)
  top[rows, :] = new
  # Lane by lane: the sum over lanes waits until the end.
  total[rows, :] = total[rows, :] * shrink + sum(
    weight[:, lane : lane + LANES] for lane in range(0, plan.inner_k, LANES)
  )
  if plan.keep is not None:
    weight = weight * part.evaluate(plan.keep)
  gain = plan.product(weight.astype(v.dtype), v[columns, :], 1, 0)
  acc[rows, :] = acc[rows, :] * operands.across(shrink, acc.shape[1]) + gain
