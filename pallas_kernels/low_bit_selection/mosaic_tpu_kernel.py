"""The TPU kernel: 8 blocks of queries by up to 128 blocks of keys, in inner steps.

Queries lie down the sublanes and keys along the lanes. Which key passes for some query
of a block is a maximum over sublanes; which block of keys holds one that passes is a
product with a matrix that adds up the lanes of each block.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES, SUBLANES = 128, 8


@dataclasses.dataclass(frozen=True)
class Plan:
  """The static numbers of a call.

  Attributes:
    block_q: queries of a block.
    block_k: keys of a block.
    columns: keys of an inner step.
    keys: keys of a grid step.
    rounded: whether the bias is rounded.
    shared: whether all batch entries have the same candidates.
    steps: grid steps along the queries.
  """

  block_q: int
  block_k: int
  columns: int
  keys: int
  rounded: bool
  shared: bool
  steps: int


def select(plan: Plan, final, q, k, q_scale, least, k_scale, bias, out):
  """Computes, for 8 blocks of queries and 128 of keys, how many keys pass."""
  b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
  last = final[i if plan.shared else b * plan.steps + i]
  first = j * plan.keys
  out[...] = jnp.zeros_like(out)
  for start in range(0, plan.keys, plan.columns):

    @pl.when(first + start < (last + 1) * plan.block_k)
    def _(start=start):
      out[...] += _passing(plan, start, q, k, q_scale, least, k_scale, bias)


def _passing(plan, start, q, k, q_scale, least, k_scale, bias):
  """Returns how many keys of each block pass in an inner step, (8, 128) int32."""
  at = pl.ds(start, plan.columns)
  product = jax.lax.dot_general(
    q[...], k[at, :], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
  ).astype(jnp.float32)
  unit = _down(q_scale[...], plan.columns) * k_scale[:, at]
  lost = bias[:, at]
  if plan.rounded:
    some = unit > 0
    whole = jnp.round(lost / jnp.where(some, unit, 1.0))
    score = jnp.where(some, (product + whole) * unit, lost)
  else:
    score = product * unit + lost
  passes = jnp.where(score > _down(least[...], plan.columns), 1.0, 0.0)
  rows = passes.reshape(SUBLANES, plan.block_q, plan.columns).max(axis=1)
  return jnp.dot(
    rows.astype(jnp.bfloat16),
    _owners(plan, start),
    preferred_element_type=jnp.float32,
  ).astype(jnp.int32)


def _owners(plan, start):
  """Returns 1 where a key of the step lies in a block of the tile, (columns, 128)."""
  shape = plan.columns, LANES
  key = start + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
  block = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  return jnp.where(jax.lax.div(key, plan.block_k) == block, 1.0, 0.0).astype(
    jnp.bfloat16
  )


def _down(line, width: int):
  """Broadcasts a line (1, n) to (n, width), down the sublanes."""
  spread = jnp.broadcast_to(line, (LANES, line.shape[1])).T
  return jnp.tile(spread, (1, width // LANES))
