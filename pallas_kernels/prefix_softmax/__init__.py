"""Prefix softmax with scores and states that never leave fast memory: one contract.

  top[k] = max_{i <= k} s[i],  total[k] = sum_{i <= k} exp(s[i] - top[k])
  out[k] = sum_{i <= k} exp(s[i] - top[k]) v[i] / total[k]

Leo Feng et al. Attention as an RNN. 2024. arXiv:2405.13956. The algebra and its way
back are those of `attnjax.core.scan`. top and total, T N numbers each, are made before
by XLA, so that a chunk of C tokens is one product of matrices, and nothing has to be
rescaled:

  W[r, c] = exp(s[c] - top[r]) / total[r], c <= r
  keep[r] = exp(top[before] - top[r]) total[before] / total[r]
  out     = W v + keep state         state <- the last row of out

and back, from the last chunk to the first, with delta = do . out - dlse:

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
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.contract import Case
from attnjax.core import devices, scan
from attnjax.core.scan import Form, Weights
from attnjax.core.scan.normalisers import normaliser

BACKENDS = {"pallas": "mosaic_tpu", "triton": "triton_gpu"}


def prefix(
  scores, values, *, initial=None, segment_ids=None, impl: str, tiles: Any = None
):
  """(out (B, T, N, E), lse (B, T, N) float32, State) by a backend's kernels.

  Args:
    scores: (B, T, N), -inf for a token that does not count.
    values: (B, T, N, E).
    initial: the State before the first token, or None.
    segment_ids: (B, T), a document is a run of equal ids; or None.
    impl: one of BACKENDS.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  TPUs take float16 as float32, which costs its time and memory.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if shapes or tiles do not fit.
  """
  scan.check(scores, values, initial)
  module = backend(impl)
  module.supports(scores, values)
  form = Form(
    normaliser,
    _placed(_folded(functools.partial(module.forward, tiles=tiles))),
    _placed(_folded(functools.partial(module.backward, tiles=tiles))),
    functools.partial(_tangent, impl),
  )
  return scan.prefix(
    scores, values, form=form, initial=initial, segment_ids=segment_ids
  )


def backend(impl: str):
  """The module of a backend, imported when it is first asked for."""
  try:
    return importlib.import_module(f"pallas_kernels.prefix_softmax.{BACKENDS[impl]}")
  except ImportError as error:
    raise ImportError(
      f"impl {impl!r} needs {error.name}: pip install attnjax[cuda]"
    ) from error


def _tangent(impl):
  raise NotImplementedError(
    f"impl {impl!r} has first-order reverse derivatives only; impl 'xla' has jvp and"
    " derivatives of any order"
  )


def _folded(function):
  """The function, whose arrays all have the batch first, under `jax.vmap`."""

  @jax.custom_batching.custom_vmap
  def call(*arrays):
    return function(*arrays)

  @call.def_vmap
  def _(size, batched, *arrays):
    def join(x, mapped):
      x = x if mapped else jnp.broadcast_to(x[None], (size, *x.shape))
      return x.reshape(-1, *x.shape[2:])

    results = call(*jax.tree.map(join, arrays, tuple(batched)))
    split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
    return split, jax.tree.map(lambda _: True, split)

  return call


def _placed(function):
  """The function on each device's batches and heads."""
  arrays, state = P("batch", None, "heads"), P("batch", "heads")
  given = Weights(arrays, arrays, arrays, arrays, P("batch"))

  def run(weights, *more):
    if len(more) == 2:  # values, start
      inputs, outputs = (given, arrays, state), (arrays, state)
    else:  # values, g, delta, A, b
      inputs = given, arrays, arrays, arrays, state, state
      outputs = arrays, arrays, state, state
    return devices.per_device(function, inputs, outputs)(weights, *more)

  return run


def _shapes(B, T, N, E):
  return {"scores": (B, T, N), "values": (B, T, N, E)}


def _state(B, N, E):
  def make(key: jax.Array) -> dict[str, Any]:
    top, total, out = jax.random.split(key, 3)
    top, total = jax.random.normal(top, (B, N)), jax.random.uniform(total, (B, N))
    return {"initial": scan.State(top, 1 + total, jax.random.normal(out, (B, N, E)))}

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
