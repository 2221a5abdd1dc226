"""Causal linear attention with decay in fused kernels, for TPUs and GPUs.

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

where the last line is computed as the sum of what is written before t and read at t or
later: no term is added and subtracted again, which would leave rounding errors.
Every exponent is <= 0 before it is exponentiated, and as exact as if it were summed
over the tokens between two alone (`decays`): g may be -inf, which resets the state.

Zhen Qin et al. Lightning Attention-2. 2024. arXiv:2401.04658, algorithms 1 and 2.
Songlin Yang et al. Gated Linear Attention. 2023. arXiv:2312.06635 (decays that are
given, their gradient).

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

The kernels' `jax.jvp` and second derivatives are those of the plain JAX form,
`attnjax.core.recurrence.linear.chunked`. Two runs are equal to the bit: no sums by
atomic operations.

A backend's passes, whose constants are the output's `scale`, `tiles` or None (the
defaults for a device's share), and whether the gradient by decays is wanted, `decay`:

  forward(q, k, v, log_decay, state, documents)              -> out, the last state
  backward(q, k, v, log_decay, state, documents, g, g_state)
                                        -> dq, dk, dv, dlog_decay or None, dstate

log_decay (B|1, T, N|1) or None are the g above, its gradient is (B, T, N) float32;
documents (B, T) int32, or None, changes where the state is lost; state, or None, is the
one before the first token; g and g_state are the cotangents of both results. States and
their gradients are float32.

Axes: B batch, T tokens, N query heads, K key/value heads (K divides N), H head size,
E value size.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from attnjax.core import derivatives, devices, masks
from attnjax.core.recurrence import linear
from pallas_kernels import calling
from pallas_kernels.batching import Layout
from pallas_kernels.calling import Kernel

# Where plain JAX computes it.
XLA = "attnjax/core/recurrence/linear"

# The names, for `jax.checkpoint_policies`, of the results that may be saved.
SAVED = ("decayed_linear_out", "decayed_linear_state")

_ROWS, _STATE = P("batch", None, "heads"), P("batch", "heads")
# q, k, v, log_decay, initial state, documents; the batch may share a log_decay.
FORWARD = Layout((*[_ROWS] * 4, _STATE, P("batch")), (_ROWS, _STATE), shared=(3,))
# FORWARD's inputs and the cotangents; gradients by the first five, log_decay's
# (B, T, N).
BACKWARD = Layout(
  (*FORWARD.inputs, _ROWS, _STATE), (*[_ROWS] * 4, _STATE), shared=FORWARD.shared
)


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K E"],
  log_decay: Float[Array, "#B #T #N"] | None = None,
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float = 1.0,
  impl: str,
  tiles: Any = None,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B N H E"]]:
  """Returns (out, state after the last token, float32), as `linear.chunked` does.

  Args:
    q: queries.
    k: keys; query head n reads key head n K // N.
    v: values.
    log_decay: g above, <= 0; axes of size 1 broadcast. None is no decay.
    initial_state: the state before the first token, of the first token's segment.
    segment_ids: a document is a run of equal ids; tokens see only their document.
    scale: multiplies the output.
    impl: one of `calling.BACKENDS`.
    tiles: a backend's Tiles; its defaults for the shape and device if None.

  A state grows beyond what float16 holds. The TPU's kernels compute float16 as float32,
  with its time and memory; the GPU's keep the states in float32, and multiply them and
  the scores in float16, each tile in units of its own: as exact as the plain formula.

  Raises:
    ImportError: if what the backend needs is not installed.
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if shapes or tiles do not fit, or `impl` is unknown.
  """
  how = {"initial_state": initial_state, "segment_ids": segment_ids, "scale": scale}
  return prepared(q, k, v, impl=impl, tiles=tiles)(q, k, v, log_decay, **how)


def prepared(q, k, v, *, impl: str, tiles: Any = None) -> Callable:
  """Returns `attend` by one backend, for arrays of these types and shapes.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  linear.check(q, k, v)
  kernel = calling.load(__name__, impl)
  kernel.supports(q, k, v)
  return functools.partial(_run, kernel, tiles)


def _run(
  kernel: Kernel,
  tiles,
  q,
  k,
  v,
  log_decay=None,
  *,
  initial_state=None,
  segment_ids=None,
  scale=1.0,
):
  linear.check(q, k, v, initial_state=initial_state)
  if not q.shape[0] * q.shape[1]:
    return linear.chunked(q, k, v, initial_state=initial_state)
  how = {"scale": float(scale), "tiles": tiles}
  if log_decay is not None:
    log_decay = linear.each_token(log_decay, q)
  documents = None if segment_ids is None else masks.documents(segment_ids)
  given = q, k, v, log_decay, initial_state, documents
  *x, documents = devices.aligned(given, FORWARD.inputs)

  def forward(x, documents):
    return calling.spread(kernel.forward, FORWARD, **how)(*x, documents)

  def plain(x, documents):
    *arrays, state = x
    options = {"initial_state": state, "segment_ids": documents, "scale": scale}
    out, state = linear.chunked(*arrays, **options)
    return out, state.astype(jnp.float32)

  def transpose(x, documents, y, cotangents, wanted):
    del y
    decay = bool(wanted[3])
    backward = calling.spread(kernel.backward, BACKWARD, **how, decay=decay)
    *d, slopes, before = backward(*x, documents, *cotangents)
    if decay:
      axes = [a for a in (0, 2) if x[3].shape[a] < slopes.shape[a]]
      slopes = slopes.sum(axis=axes, keepdims=True)
    return *d, slopes, None if x[4] is None else before

  tangent, more = derivatives.tangent_of(plain), {"keeps_output": False}
  run = derivatives.differentiable(forward, tangent, transpose, saved=SAVED, **more)
  return run(tuple(x), documents)


def supports(q: Array, k: Array, v: Array, impl: str, sizes: int) -> None:
  """Raises NotImplementedError for types, or heads beyond `sizes`, without a kernel."""
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
