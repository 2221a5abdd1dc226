"""Prefix softmax in fused kernels, for TPUs and GPUs.

  top[k] = max_{i <= k} s[i],  total[k] = sum_{i <= k} exp(s[i] - top[k])
  out[k] = sum_{i <= k} exp(s[i] - top[k]) v[i] / total[k]

Leo Feng et al. Attention as an RNN. 2024. arXiv:2405.13956. The algebra and its
derivatives are those of `attnjax.core.recurrence.prefix`. XLA computes top and total,
T N elements each, beforehand, so that a chunk of C tokens is one product of matrices,
and nothing has to be rescaled:

  W[r, c] = exp(s[c] - top[r]) / total[r], c <= r
  keep[r] = exp(top[before] - top[r]) total[before] / total[r]
  out     = W v + keep state         state <- the last row of out

and in the backward pass, from the last chunk on, with delta = do . out - dlse:

  tail[c] = W[last, c]
  dv      = W^T do + tail A          A <- keep^T do + keep[last] A
  ds      = v . dv - W^T delta - tail b    b <- keep^T delta + keep[last] b

All powers are at most 0. The state is carried in as (top, total, out), and carried
out, with gradients through both. The entries for rows and columns of different
documents are 0.

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Two runs are equal to the bit: no sums by atomic operations.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.contract import Case
from attnjax.core.recurrence import prefix as plain
from attnjax.core.recurrence.prefix import Form, Weights
from attnjax.core.recurrence.prefix.normalisers import normaliser
from pallas_kernels import calling
from pallas_kernels.batching import Layout

# Where plain JAX computes it.
XLA = "attnjax/core/recurrence/prefix"

_ROWS, _STATE = P("batch", None, "heads"), P("batch", "heads")
_WEIGHTS = Weights(_ROWS, _ROWS, _ROWS, _ROWS, P("batch"))
# Weights, values and the start; then, of the cotangents, g, delta, A and b.
FORWARD = Layout((_WEIGHTS, _ROWS, _STATE), (_ROWS, _STATE))
BACKWARD = Layout(
  (_WEIGHTS, *[_ROWS] * 3, _STATE, _STATE), (_ROWS, _ROWS, _STATE, _STATE)
)


def prefix(
  scores, values, *, initial=None, segment_ids=None, impl: str, tiles: Any = None
):
  """Returns (out (B, T, N, E), lse (B, T, N) float32, State) by a backend's kernels.

  Args:
    scores: (B, T, N), -inf for a token that is masked.
    values: (B, T, N, E).
    initial: the State before the first token, or None.
    segment_ids: (B, T), a document is a run of equal ids; or None.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  TPUs take float16 as float32, which costs its time and memory.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if shapes or tiles do not fit.
  """
  run = prepared(scores, values, impl=impl, tiles=tiles)
  return run(scores, values, initial=initial, segment_ids=segment_ids)


def prepared(scores, values, *, impl: str, tiles: Any = None) -> Callable:
  """Returns `prefix` by one backend, for arrays of these types and shapes.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  plain.check(scores, values)
  kernel = calling.load(__name__, impl)
  kernel.supports(scores, values)
  form = Form(
    normaliser,
    calling.spread(kernel.forward, FORWARD, tiles=tiles),
    calling.spread(kernel.backward, BACKWARD, tiles=tiles),
    kernel.no_tangent,
  )
  return functools.partial(plain.prefix, form=form)


def _shapes(B, T, N, E):
  return {"scores": (B, T, N), "values": (B, T, N, E)}


def _state(B, N, E):
  def make(key: jax.Array) -> dict[str, Any]:
    top, total, out = jax.random.split(key, 3)
    top, total = jax.random.normal(top, (B, N)), jax.random.uniform(total, (B, N))
    return {"initial": plain.State(top, 1 + total, jax.random.normal(out, (B, N, E)))}

  return make


def _documents(key):
  del key
  return jnp.repeat(jnp.array([[0, 1, 1, 2], [3, 3, 3, 3]]), 75, axis=1)


CASES = (
  Case("plain", _shapes(2, 130, 2, 16)),
  Case("one_token", _shapes(1, 1, 1, 4), make=_state(1, 1, 4)),
  Case("wide", _shapes(1, 70, 1, 160), make=_state(1, 1, 160)),
  Case(
    "documents", _shapes(2, 300, 2, 5), {"segment_ids": _documents}, _state(2, 2, 5)
  ),
)
