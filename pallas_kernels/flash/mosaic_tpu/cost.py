"""Cost estimates of the kernels, for XLA's scheduler and for profiles."""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu.subtile import Plan


def estimate(plan: Plan, heads: int, width: int, arrays, walked: int):
  """Estimates the FLOPs, exponentials and bytes of a kernel.

  Args:
    plan: the kernel's static parameters.
    heads: batch entries times query heads.
    width: sum of the contracted sizes of all products that a score takes part in.
    arrays: tree of the arrays, or their shapes, that are read or written once.
    walked: further bytes that each visited tile fetches.
  """
  tiles = heads * plan.lists.tiles
  scores = tiles * plan.block_q * plan.block_k
  once = sum(
    math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(arrays)
  )
  return pl.CostEstimate(
    flops=int(2 * scores * width),
    transcendentals=int(scores),
    bytes_accessed=int(once + tiles * walked),
  )
