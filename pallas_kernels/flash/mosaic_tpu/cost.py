"""What a kernel costs, for XLA's scheduler and for profiles."""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu.subtile import Plan


def estimate(plan: Plan, heads: int, width: int, arrays, walked: int):
  """The cost of a kernel.

  Args:
    plan: of the kernel.
    heads: batch entries times query heads.
    width: sizes of the products of a score, added up.
    arrays: that pass once, any tree of them or of their shapes.
    walked: bytes that each visited tile fetches besides.
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
