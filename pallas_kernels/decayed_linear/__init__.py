"""Causal linear attention with decay, its state in fast memory: one contract.

  S_t = exp(g_t) S_{t-1} + k_t v_t^T,   o_t = scale q_t S_t

in chunks, with G the sums of g from a chunk's start and S the state before the chunk:

  O = scale (Q K^T * D) V + scale exp(G) * (Q S)    D[r, c] = exp(G_r - G_c), r >= c
  S <- exp(G_last) S + (exp(G_last - G) * K)^T V

and in reverse, with R the gradient by the state after the chunk and M = dO V^T * D:

  dQ = scale (M K + exp(G) * (dO S^T))
  dK = scale M^T Q + exp(G_last - G) * (V R^T)
  dV = scale (Q K^T * D)^T dO + exp(G_last - G) * (K R)
  R <- exp(G_last) R + scale (exp(G) * Q)^T dO
  dg_t = sum_{r >= t} (q_r . dq_r - k_r . dk_r) + <R, S after the chunk>, R before it

where the last line is made as a sum of what is written before t and read at t or
later: none of its terms is subtracted again, whose rounding other tokens would feel.
Every exponent is <= 0 before it is exponentiated, and as exact as if it were summed
over the tokens between two alone (`decays`): g may be -inf, which resets the state.

Zhen Qin et al. Lightning Attention-2. 2024. arXiv:2401.04658, algorithms 1 and 2.
Songlin Yang et al. Gated Linear Attention. 2023. arXiv:2312.06635 (decays that are
given, their gradient).

  xla      attnjax.core.linear.chunked, in plain JAX, for all else
  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

The kernels' `jax.jvp` and second derivatives are those of "xla". Two runs are equal to
the bit: no sums by atomic operations.

Axes: B batch, T tokens, N query heads, K key/value heads (K divides N), H head size,
E value size.
"""

import functools
import importlib
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import linear, masks
from attnjax.core.platform import target_platform
from pallas_kernels.decayed_linear import differentiable, sharing

BACKENDS = {"pallas": "mosaic_tpu", "triton": "triton_gpu"}
IMPLEMENTATIONS = ("xla", *BACKENDS)
_FUSED = {"tpu": "pallas", "gpu": "triton"}


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K E"],
  log_decay: Float[Array, "#B #T #N"] | None = None,
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float = 1.0,
  impl: str = "auto",
  tiles: Any = None,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B N H E"]]:
  """(out, state after the last token), as `attnjax.core.linear.chunked`.

  The state is float32 (float64 for float64, in "xla").

  Args:
    q: queries.
    k: keys; query head n reads key head n K // N.
    v: values.
    log_decay: g above, <= 0; a size of 1 is the same for all. None is no decay.
    initial_state: the state before the first token; it belongs to its segment.
    segment_ids: a document is a run of equal ids and sees itself only.
    scale: multiplies the output.
    impl: one of IMPLEMENTATIONS, or "auto": the platform's kernels, or, saying why
      once, "xla".
    tiles: a backend's Tiles; its defaults for the shape and device if None.

  A state grows beyond what float16 holds. The TPU's kernels compute float16 as float32,
  with its time and memory; the GPU's keep the states in float32, and multiply them and
  the scores in float16, each tile in units of its own: as exact as the plain formula.

  Raises:
    ImportError: if what the backend needs is not installed.
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if shapes or tiles do not fit, or `impl` is unknown.
  """
  linear.check(q, k, v, initial_state=initial_state)
  if impl == "auto":
    impl = _automatic(q, k, v)
  if impl == "xla" or (impl in BACKENDS and not q.shape[0] * q.shape[1]):
    options = {"initial_state": initial_state, "segment_ids": segment_ids}
    return linear.chunked(q, k, v, log_decay, **options, scale=scale)
  if impl not in BACKENDS:
    raise ValueError(f"impl {impl!r} is none of auto, {', '.join(IMPLEMENTATIONS)}")
  how = {"scale": float(scale), "impl": impl, "tiles": tiles}
  return _fused((q, k, v, log_decay, initial_state), segment_ids, **how)


def _fused(x, segment_ids, *, scale: float, impl: str, tiles):
  q, k, v, log_decay, state = x
  module = backend(impl)
  module.supports(q, k, v)
  how = {"scale": scale, "tiles": tiles}
  if log_decay is not None:
    log_decay = linear.each_token(log_decay, q)
  documents = None if segment_ids is None else masks.documents(segment_ids)
  form = differentiable.Form(
    functools.partial(sharing.forward, functools.partial(module.forward, **how)),
    functools.partial(sharing.backward, functools.partial(module.backward, **how)),
    functools.partial(_plain, scale),
  )
  return differentiable.attend(
    form, *sharing.aligned((q, k, v, log_decay, state), documents)
  )


def _automatic(q, k, v) -> str:
  platform = target_platform()
  impl = _FUSED.get(platform)
  if impl is None:
    return "xla"
  try:
    backend(impl).supports(q, k, v)
  except (NotImplementedError, ImportError) as reason:
    _say_once(f"impl 'auto' takes 'xla' on {platform}, not {impl!r}: {reason}")
    return "xla"
  return impl


@functools.cache
def _say_once(message: str) -> None:
  logging.getLogger(__name__).warning(message)


def _plain(scale, x, documents):
  q, k, v, log_decay, state = x
  options = {"initial_state": state, "segment_ids": documents, "scale": scale}
  out, state = linear.chunked(q, k, v, log_decay, **options)
  return out, state.astype(jnp.float32)


def backend(impl: str):
  """The module of a backend, imported when it is first asked for."""
  try:
    return importlib.import_module(f"{__name__}.{BACKENDS[impl]}")
  except ImportError as error:
    raise ImportError(
      f"impl {impl!r} needs {error.name}: pip install attnjax[cuda]"
    ) from error


def supports(q: jax.Array, k: jax.Array, v: jax.Array, impl: str, sizes: int) -> None:
  """Raises NotImplementedError for types, or heads beyond `sizes`, of no kernel."""
  for name, x in (("q", q), ("k", k), ("v", v)):
    if x.dtype.name not in ("float32", "bfloat16", "float16"):
      raise NotImplementedError(
        f"impl {impl!r}: {name} is {x.dtype}; kernels take float32, bfloat16 and"
        " float16, impl 'xla' takes float64 too"
      )
    if x.shape[3] > sizes:
      raise NotImplementedError(
        f"impl {impl!r}: heads of {name} have {x.shape[3]} numbers, more than {sizes};"
        " impl 'xla' takes any"
      )
  if not q.dtype == k.dtype == v.dtype:
    raise NotImplementedError(
      f"impl {impl!r}: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, not of one type;"
      " impl 'xla' takes any"
    )
