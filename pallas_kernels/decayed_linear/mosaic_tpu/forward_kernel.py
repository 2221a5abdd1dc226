"""The forward kernel: grid (B, heads, chunk).

The state stays in fast memory from chunk to chunk. The kernel writes the outputs, or,
for the backward pass, the states before each chunk.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.decayed_linear.mosaic_tpu.plan import (
  Plan,
  decays,
  times,
)
from pallas_kernels.flash.mosaic_tpu.operands import spread


def call(plan: Plan, arrays, decaying, initial, shape, vmem: int):
  """Runs the kernel on packed arrays.

  Args:
    plan: the compile-time constants.
    arrays: q, k, v packed; if q is None, states are written, not outputs.
    decaying: sums of decays (B|1, N|1, 2, tokens), from `decays.sums`, or None;
      documents (B, 1, tokens) int32 and their ends (B (chunks + 1),), or None, see
      `plan.decays`.
    initial: (B, N, H, E) or None.
    shape: (B, N).
    vmem: the bytes of fast memory that may be used.

  Returns:
    (outputs packed, or states before each chunk (B, N, chunks, H, E) in k's type; the
    last state (B, N, H, E) float32).
  """
  (B, N), (q, k, v), (sums, documents, ends) = shape, arrays, decaying
  initial = None if initial is None else initial.astype(jnp.float32)
  tokens, H, E = plan.chunks * plan.chunk, plan.H, plan.E
  own = functools.partial(_in_specs, plan, sums, initial, documents)
  if q is None:
    made = jax.ShapeDtypeStruct((B, N, plan.chunks, H, E), k.dtype)
    made_spec = pl.BlockSpec(
      (None, plan.heads, None, H, E), lambda b, n, i, *_: (b, n, i, 0, 0)
    )
  else:
    made = jax.ShapeDtypeStruct((B, N, tokens, E), v.dtype)
    made_spec = plan.spec(plan.heads, E, lambda b, n, i, *_: (b, n, i))
  last = pl.BlockSpec((None, plan.heads, H, E), lambda b, n, i, *_: (b, n, 0, 0))
  return pl.pallas_call(
    functools.partial(_kernel, plan),
    out_shape=(made, jax.ShapeDtypeStruct((B, N, H, E), jnp.float32)),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=int(ends is not None),
      grid=(B, N // plan.heads, plan.chunks),
      in_specs=own(q is not None),
      out_specs=(made_spec, last),
      scratch_shapes=[pltpu.VMEM((plan.heads, H, E), jnp.float32)],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=vmem,
    ),
    cost_estimate=plan.cost(
      B * N,
      0 if q is None else 1,
      1 if q is None else 2,
      (*arrays, sums, initial, made),
    ),
    name="decayed_linear_states" if q is None else "decayed_linear_forward",
  )(*(x for x in (ends,) if x is not None), q, k, v, sums, initial, documents)


def _in_specs(plan: Plan, sums, initial, documents, queries: bool):
  def heads(b, n, i, *_):
    return b, n, i

  def keys(b, n, i, *_):
    return b, jax.lax.div(n * plan.heads, plan.group * plan.key_heads), i

  return [
    plan.spec(plan.heads, plan.H, heads) if queries else None,
    plan.spec(plan.key_heads, plan.H, keys),
    plan.spec(plan.key_heads, plan.E, keys),
    lines(plan, sums, lambda b, n, i, *_: (b, n, i)),
    None
    if initial is None
    else pl.BlockSpec(
      (None, plan.heads, plan.H, plan.E), lambda b, n, i, *_: (b, n, 0, 0)
    ),
    None
    if documents is None
    else pl.BlockSpec((None, 1, plan.chunk), lambda b, n, i, *_: (b, 0, i)),
  ]


def lines(plan: Plan, sums, where) -> pl.BlockSpec | None:
  """Returns the spec of lines (B|1, N|1, n, tokens), or None if `sums` is None."""
  if sums is None:
    return None
  batches, heads, number = sums.shape[:3]

  def index(*grid):
    b, n, i = where(*grid)
    return b if batches > 1 else 0, n if heads > 1 else 0, 0, i

  return pl.BlockSpec((None, min(heads, plan.heads), number, plan.chunk), index)


def _kernel(plan, *refs):
  ends = None
  if len(refs) == 10:
    ends, *refs = refs
  q, k, v, sums, initial, documents, made, last, state = refs
  b, i = pl.program_id(0), pl.program_id(2)

  @pl.when(i == 0)
  def _():
    state[...] = jnp.zeros_like(state) if initial is None else initial[...]

  places = None if documents is None else spread(documents[...])
  for h in range(plan.heads):
    own = decays(plan, h, b, i, sums, documents, places, ends)
    key = k[plan.key_head(h)]
    value = v[plan.key_head(h)]
    before = state[h]
    if q is None:
      made[h] = before.astype(made.dtype)
    else:
      _outputs(plan, h, own, q[h], key, value, before, made)
    kept, keep = times(key, own.writing()).astype(key.dtype), own.keeping()
    new = plan.product(kept, value, 0, 0)
    state[h] = new + (before if keep is None else before * keep)

  @pl.when(i == plan.chunks - 1)
  def _():
    last[...] = state[...]


def _outputs(plan, h, own, query, key, value, before, out):
  reading = own.reading()
  before = before.astype(key.dtype)
  for rows in plan.parts():
    part = query[rows]
    seen = plan.product(part, before, 1, 0)
    total = times(seen, None if reading is None else reading[rows])
    # Keys before the part need no causal mask.
    for keys in (slice(0, rows.start), rows):
      if keys.stop > keys.start:
        scores = plan.product(part, key[keys], 1, 1)
        power = own.inside(keys, rows, False)
        scores = scores if power is None else scores * power
        total += plan.product(scores.astype(value.dtype), value[keys], 1, 0)
    out[h, rows, :] = plan.scaled(total).astype(out.dtype)
