"""Block specs, scratch memory and output aliases of the backward kernel."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import dq_copies, layout, operands
from pallas_kernels.flash.mosaic_tpu import operand_gradients as gradients
from pallas_kernels.flash.mosaic_tpu.operands import LANES


def where(lists, b, h, *step):
  """Returns the (b, n, i, j) of a grid step: entry, head, query and key tile."""
  visit = lists.visit(step[3], b, h, *step[:3])
  return b, visit.n, visit.column, visit.row


def in_specs(plan, H, V, where, key_specs, blank):
  """Returns the block specs of all inputs."""

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
    (lines,) * 3,
    tuple(operands.spec(o, plan.block_q, plan.block_k, where) for o in plan.operands),
    jax.tree.map(lambda _: pl.BlockSpec(memory_space=pl.ANY), blank),
  ]


def key_specs(plan, H, V, where):
  """Returns the block specs of key tiles and of value tiles."""

  def keys(b, h, *step):
    return b, h, where(b, h, *step)[3]

  return layout.spec(plan.block_k, H, keys), layout.spec(plan.block_k, V, keys)


def scratch(plan, how, shapes, resident):
  """Returns the shapes of the kernel's scratch memory."""
  _, N, K, queries, _, H, V = shapes
  block_q, block_k = plan.block_q, plan.block_k
  return [
    pltpu.VMEM((N // K, queries, H) if resident else (1, block_q, H), jnp.float32),
    pltpu.VMEM((block_k, H), jnp.float32),
    pltpu.VMEM((block_k, V), jnp.float32),
    tuple(
      pltpu.VMEM((block_k, LANES), o.dtype) if o.kind == "column" else None
      for o in plan.operands
    ),
    tuple(gradients.scratch(w, plan) for w in how),
    None if resident else dq_copies.Gathering.scratch(block_q, H),
    pltpu.SMEM((1,), jnp.int32),
  ]


def aliases(arguments, blank, out_shape) -> dict[int, int]:
  """Maps the flat index of each blank input to that of the output that reuses it."""
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
