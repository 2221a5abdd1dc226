"""Softmax attention in fused kernels, for TPUs and GPUs.

Tri Dao et al. FlashAttention. arXiv:2205.14135; FlashAttention-2. arXiv:2307.08691.
Juechu Dong et al. Flex Attention. arXiv:2412.05496 (block lists, score functions).

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Both take all of `attnjax.core.scores` and any shape, with gradients with respect to q,
k, v, sinks, the bias and the arrays that a score function captures. They raise
NotImplementedError for problems that they cannot do. Two runs are equal to the bit:
nothing is summed by atomic operations.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from attnjax.core import devices, programs, softmax
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from pallas_kernels import batching, calling
from pallas_kernels.batching import Layout
from pallas_kernels.calling import Kernel

# Where plain JAX computes it.
XLA = "attnjax/core/softmax"


def _with_sinks(call, size, which, arguments):
  """Adds sinks that differ along a mapped axis after a kernel call without them."""
  q, k, v, sinks, *rest = arguments
  which = *which[:3], None, *which[4:]
  given = q, k, v, None, *rest
  found = batching.mapped(call, FORWARD, size, which, given)
  out, top, total = jax.vmap(softmax.with_sinks)(*found, sinks)
  return out.astype(found[0].dtype), top, total


FORWARD = Layout(*softmax.FORWARD, shared=(4, 5), apart=_with_sinks)
BACKWARD = Layout(*softmax.BACKWARD, shared=(7, 8), gradients={3: 7})


def attend(q, k, v, scores: Scores, *, sinks=None, scale, impl: str, tiles: Any = None):
  """Returns (out (B, T, N, V), lse (B, T, N) float32) by a backend's kernels.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H), K divides N.
    v: (B, S, K, V).
    scores: the mask, bias and functions that are applied to q . k.
    sinks: (N,), or None.
    scale: what q . k is multiplied by.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if tiles do not fit.
  """
  run = prepared(q, k, v, scores, impl=impl, tiles=tiles)
  return run(q, k, v, sinks=sinks, scale=scale)


def prepared(
  q, k, v, scores: Scores, *, impl: str, tiles: Any = None, tokens: int | None = None
) -> Callable:
  """Returns the function of (q, k, v, sinks=, scale=) for these scores.

  This is where a backend refuses a problem and the scores' program is traced.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H).
    v: (B, S, K, V).
    scores: as in `attend`.
    impl: as in `attend`.
    tiles: as in `attend`.
    tokens: queries and keys that default tiles are chosen for; all of them if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
  """
  kernel = calling.load(__name__, impl)
  q, k, v, scores = devices.vary((q, k, v, scores))
  shape, dtype = (q.shape[0], q.shape[2], q.shape[1], k.shape[1]), accumulator_dtype(q)
  program = programs.program(scores, shape, dtype)
  kernel.supports(q, k, v, program)
  if tiles is None:
    like = [
      jax.ShapeDtypeStruct((x.shape[0], tokens or x.shape[1], *x.shape[2:]), x.dtype)
      for x in (q, k, v)
    ]
    tiles = kernel.tiles(*like, program)
  blocks = tiles.blocks(scores, shape)
  schedules = [
    kernel.prepared(one, q, k) for one in programs.schedules(scores, shape, blocks)
  ]
  program = programs.listed(program, scores, blocks, dtype).scheduled
  return functools.partial(_run, kernel, tiles, program, tuple(schedules))


def _run(kernel: Kernel, tiles, program, schedules, q, k, v, *, sinks=None, scale):
  how = {"scale": scale, "tiles": tiles}
  forward = calling.spread(kernel.forward, FORWARD, **how)
  backward = calling.spread(kernel.backward, BACKWARD, **how)
  passes = softmax.Passes(forward, backward, kernel.no_tangent)
  given = softmax.arguments(q, k, v, sinks, program, schedules)
  out, *sums = softmax.differentiable(passes)(*given)
  return out, softmax.logarithm(*sums)
