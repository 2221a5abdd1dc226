"""What a kernel costs, for XLA's scheduler and for profiles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu.part import Plan


def estimate(plan: Plan, heads: int, count, width: int, arrays, walked: int):
  """The cost of a kernel.

  Args:
    plan: of the kernel.
    heads: batch entries times query heads.
    count: blocks of each list; data counts as full lists.
    width: sizes of the products of a score, added up.
    arrays: that pass once, any tree of them or of their shapes.
    walked: bytes that each visited tile fetches besides.
  """
  blocks = plan.lists.length
  if isinstance(count, np.ndarray):
    blocks = float(np.mean(count))
  tiles = heads * plan.lists.rows * blocks * plan.lists.along
  scores = tiles * plan.block_q * plan.block_k
  once = sum(
    math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(arrays)
  )
  return pl.CostEstimate(
    flops=int(2 * scores * width),
    transcendentals=int(scores),
    bytes_accessed=int(once + tiles * walked),
  )
