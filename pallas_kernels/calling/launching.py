"""The call of a Triton kernel, and what kernels tell XLA of their cost.

Triton writes the PTX version of its own assembler, and jaxlib assembles that text with
the one that it finds: CUDA 13.0 refuses what Triton 3.9 writes of itself for an H100.
"""

import math

import jax
import jax.numpy as jnp

from attnjax.core.platform import target_capability
from pallas_kernels.calling.kernel import needing

# PTX 8.8, of CUDA 12.9: the least that describes all chips that the tiles are for.
PTX_VERSION = 88


def triton(
  *arguments, kernel, out_type, grid, name: str, warps: int, stages: int, **constants
):
  """Runs a kernel and returns its outputs, in the structure of `out_type`.

  Args:
    *arguments: arrays, None or tuples of arrays, in the kernel's order; the outputs
      follow them.
    kernel: a function of triton.jit.
    out_type: the outputs' shapes and types.
    grid: programs along each axis.
    name: of the call in profiles.
    warps: of 32 threads, of a program.
    stages: how many tiles are in flight from memory, the one at work included.
    **constants: the kernel's numbers and constants by name.

  Raises:
    ImportError: without jax-triton, naming what is missing.
  """
  with needing("triton"):
    import jax_triton
  return jax_triton.triton_call(
    *arguments,
    kernel=kernel,
    out_type=out_type,
    grid=grid,
    name=name,
    num_warps=warps,
    num_stages=stages,
    # Of the chip that it is lowered for: jax-triton would ask the one that is here.
    compute_capability=target_capability(),
    backend_options=dict(enable_fp_fusion=True, ptx_version=PTX_VERSION),
    **constants,
  )


def cost(flops: float, exponentials: float, arrays):
  """Returns a `pl.CostEstimate`; `arrays`, or shapes, pass memory once."""
  from jax.experimental import pallas as pl

  size = sum(
    math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(arrays)
  )
  return pl.CostEstimate(
    flops=int(flops), transcendentals=int(exponentials), bytes_accessed=size
  )
