"""Softmax attention with scores that never leave fast memory: one contract.

Tri Dao et al. FlashAttention. arXiv:2205.14135; FlashAttention-2. arXiv:2307.08691.
Juechu Dong et al. Flex Attention. arXiv:2412.05496 (block lists, score functions).

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Both take all of `attnjax.core.scores` and any shape, with gradients by q, k, v, sinks,
the bias and what a score function captures. What they cannot do they refuse with
NotImplementedError. Two runs are equal to the bit: no sums by atomic operations.
"""

import functools
import importlib
from typing import Any

from attnjax.core import scores as scores_of
from attnjax.core.scores import Scores
from attnjax.core.softmax import fused, planned
from pallas_kernels.flash import folding

BACKENDS = {"pallas": "mosaic_tpu", "triton": "triton_gpu"}


def attend(q, k, v, scores: Scores, *, sinks=None, scale, impl: str, tiles: Any = None):
  """(out (B, T, N, V), lse (B, T, N) float32) by a backend's kernels.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H), K divides N.
    v: (B, S, K, V).
    scores: what is done to scores.
    sinks: (N,), or None.
    scale: of q . k.
    impl: one of BACKENDS.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if tiles do not fit.
  """
  module = backend(impl)
  B, T, N, _ = q.shape
  program = scores_of.program(scores, (B, N, T, k.shape[1]), ())
  module.supports(q, k, v, program)
  if tiles is None:
    tiles = module.fitting(q, k, v, program)
  blocks = tiles.forward_blocks, tiles.backward_blocks
  if impl == "pallas":  # Block lists lie in a small memory.
    blocks = module.blocks(tiles, scores, (B, N, T, k.shape[1]))
  form = fused.Form(
    folding.folded(functools.partial(_forward, module, tiles)),
    folding.folded(functools.partial(_backward, module, tiles)),
    functools.partial(_tangent, impl),
    **({"prepared": module.prepared} if impl == "pallas" else {}),
  )
  return planned.attend(form, q, k, v, scores, sinks=sinks, scale=scale, blocks=blocks)


def backend(impl: str):
  """The module of a backend, imported when it is first asked for."""
  try:
    return importlib.import_module(f"pallas_kernels.flash.{BACKENDS[impl]}")
  except ImportError as error:
    raise ImportError(
      f"impl {impl!r} needs {error.name}: pip install attnjax[cuda]"
    ) from error


def _forward(module, tiles, scale, q, k, v, sinks, program, schedule):
  return module.forward(q, k, v, sinks, program, schedule, scale=scale, tiles=tiles)


def _backward(module, tiles, scale, q, k, v, g, top, total, delta, program, schedule):
  return module.backward(
    q, k, v, g, top, total, delta, program, schedule, scale=scale, tiles=tiles
  )


def _tangent(impl, *_, **__):
  raise NotImplementedError(
    f"impl {impl!r} has first-order reverse derivatives only; impl 'xla' has jvp and"
    " derivatives of any order"
  )
