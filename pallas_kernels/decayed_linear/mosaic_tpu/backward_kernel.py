"""The backward kernel: grid (B, heads, chunk), chunks in reverse.

The gradient by the state stays in fast memory. Scores have keys down the sublanes.
Each query head writes its own gradients by keys and values; those of grouped heads are
summed outside the kernel.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.decayed_linear.mosaic_tpu.forward_kernel import lines
from pallas_kernels.decayed_linear.mosaic_tpu.plan import (
  Decays,
  Plan,
  added,
  decays,
  times,
)
from pallas_kernels.decayed_linear.mosaic_tpu.slopes import Slope
from pallas_kernels.flash.mosaic_tpu.operands import LANES, spread


def call(plan: Plan, arrays, decaying, shape, vmem: int, slopes: bool):
  """Runs the kernel on packed arrays.

  Args:
    plan: the compile-time constants.
    arrays: q, k, v, dO packed, the states before each chunk (B, N, chunks, H, E), the
      gradient by the last state (B, N, H, E) float32.
    decaying: as in the forward kernel.
    shape: (B, N).
    vmem: the bytes of fast memory that may be used.
    slopes: whether the gradient by decays is wanted.

  Returns:
    dQ packed; dK and dV packed, of each query head, float32 if heads are grouped; the
    gradient by decays (B, N, 3, tokens) float32, to be added up by
    `slopes.passing`, or None;
    the gradient by the first state (B, N, H, E) float32.
  """
  (B, N), (sums, documents, ends) = shape, decaying
  tokens, H, E = plan.chunks * plan.chunk, plan.H, plan.E
  back = plan.chunks - 1

  def heads(b, n, i, *_):
    return b, n, back - i

  def keys(b, n, i, *_):
    return b, jax.lax.div(n * plan.heads, plan.group * plan.key_heads), back - i

  whole = pl.BlockSpec((None, plan.heads, H, E), lambda b, n, i, *_: (b, n, 0, 0))
  states = pl.BlockSpec(
    (None, plan.heads, None, H, E), lambda b, n, i, *_: (b, n, back - i, 0, 0)
  )
  slope = jax.ShapeDtypeStruct((B, N, 3, tokens), jnp.float32) if slopes else None
  summed = jnp.float32 if plan.group > 1 else arrays[0].dtype
  kinds = (arrays[0].dtype, H), (summed, H), (summed, E)
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    out_shape=(
      *(jax.ShapeDtypeStruct((B, N, tokens, s), t) for t, s in kinds),
      slope,
      jax.ShapeDtypeStruct((B, N, H, E), jnp.float32),
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=int(ends is not None),
      grid=(B, N // plan.heads, plan.chunks),
      in_specs=[
        plan.spec(plan.heads, H, heads),
        plan.spec(plan.key_heads, H, keys),
        plan.spec(plan.key_heads, E, keys),
        plan.spec(plan.heads, E, heads),
        states,
        whole,
        lines(plan, sums, heads),
        None
        if documents is None
        else pl.BlockSpec((None, 1, plan.chunk), lambda b, n, i, *_: (b, 0, back - i)),
      ],
      out_specs=(
        *(plan.spec(plan.heads, size, heads) for _, size in kinds),
        lines(plan, slope, heads),
        whole,
      ),
      scratch_shapes=[pltpu.VMEM((plan.heads, H, E), jnp.float32)],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=vmem,
    ),
    cost_estimate=plan.cost(B * N, 2.5, 4, (*arrays, arrays[:4], sums, slope)),
    name="decayed_linear_backward",
  )(*(x for x in (ends,) if x is not None), *arrays, sums, documents)


def _kernel(plan, *refs):
  ends = None
  if len(refs) == 15:
    ends, *refs = refs
  q, k, v, g, states, last, sums, documents, dq, dk, dv, slope, first, after = refs
  b, i = pl.program_id(0), pl.program_id(2)

  @pl.when(i == 0)
  def _():
    after[...] = last[...]

  places = None if documents is None else spread(documents[...])
  for h in range(plan.heads):
    own = decays(plan, h, b, plan.chunks - 1 - i, sums, documents, places, ends)
    given = (
      q[h],
      k[plan.key_head(h)],
      v[plan.key_head(h)],
      g[h],
    )
    wanted = None if slope is None else Slope(plan)
    inner = _inside(plan, own, *given, wanted)
    outer = _outside(plan, own, *given, states[h], after[h], wanted)
    for ref, near, far in zip((dq, dk, dv), inner, outer[:3]):
      for rows, part in zip(plan.parts(), near):
        ref[h, rows, :] = (plan.scaled(part) + far[rows]).astype(ref.dtype)
    if wanted is not None:
      slope[h] = wanted.lines()
    after[h] = outer[3]

  @pl.when(i == plan.chunks - 1)
  def _():
    first[...] = after[...]


def _inside(plan, own: Decays, query, key, value, g, slope):
  """Returns unscaled dQ, dK, dV of the products in the chunk, as lists of parts."""
  parts = plan.parts()
  dq: list = [None] * len(parts)
  dk, dv = [], []
  for j, keys in enumerate(parts):
    key_sum = value_sum = None
    for i, rows in enumerate(parts[j:], j):
      power = own.inside(keys, rows, True)
      scores = plan.product(key[keys], query[rows], 1, 1)
      change = plan.product(value[keys], g[rows], 1, 1)
      raw = change
      if power is not None:
        scores, change = scores * power, change * power
      if slope is not None:
        slope.add_inside(keys, rows, scores * raw)
      scores, change = scores.astype(g.dtype), change.astype(query.dtype)
      value_sum = added(value_sum, plan.product(scores, g[rows], 1, 0))
      key_sum = added(key_sum, plan.product(change, query[rows], 1, 0))
      dq[i] = added(dq[i], plan.product(change, key[keys], 0, 0))
    dk.append(key_sum)
    dv.append(value_sum)
  return dq, dk, dv


def _outside(plan, own: Decays, query, key, value, g, before, after, slope):
  """Returns scaled dQ, dK, dV of products with states, and the gradient by `before`."""
  reading, writing, keep = own.reading(), own.writing(), own.keeping()
  if plan.scale != 1:
    size = plan.chunk, LANES
    reading = jnp.full(size, plan.scale) if reading is None else reading * plan.scale
  rounded = after.astype(key.dtype)
  dq = times(plan.product(g, before, 1, 1), reading)
  dk = times(plan.product(value, rounded, 1, 1), writing)
  dv = times(plan.product(key, rounded, 1, 0), writing)
  kept = after if keep is None else after * keep
  if slope is not None:
    slope.add_outside(query, dq, key, dk, before, kept)
  seen = times(query, reading).astype(query.dtype)
  return dq, dk, dv, kept + plan.product(seen, g, 0, 0)
