"""Kernels under a mesh and under `jax.vmap`: both cut or join batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.core import devices

_ARRAYS = P("batch", None, "heads")  # (B, T, N, H)
_STATE = P("batch", "heads")
_INPUTS = (*(_ARRAYS,) * 4, _STATE, P("batch"))  # q, k, v, log_decay, state, documents


def forward(function: Callable, x, documents):
  """(out, state) of a backend's forward, on each device's batches and heads."""

  def run(*arguments):
    return function(arguments[:5], arguments[5])

  call = devices.per_device(_folded(run), _INPUTS, (_ARRAYS, _STATE))
  return call(*x, documents)


def backward(function: Callable, x, documents, cotangents, decay: bool):
  """Gradients by q, k, v, log_decay (None if not `decay`) and the initial state."""
  log_decay, state = x[3:]

  def run(*arguments):
    return function(arguments[:5], arguments[5], arguments[6:], decay=decay)

  outputs = *(_ARRAYS,) * 4, _STATE
  call = devices.per_device(_folded(run), (*_INPUTS, _ARRAYS, _STATE), outputs)
  *d, slopes, before = call(*x, documents, *cotangents)
  if decay:
    axes = [a for a in (0, 2) if log_decay.shape[a] < slopes.shape[a]]
    slopes = slopes.sum(axis=axes, keepdims=True)
  return *d, slopes, None if state is None else before


def aligned(x, documents):
  """The arguments, of types that fit each other; see `devices.aligned`."""
  *x, documents = devices.aligned((*x, documents), _INPUTS)
  return tuple(x), documents


def _folded(function: Callable) -> Callable:
  """function(*arrays), all with the batch first, with a rule for `jax.vmap`.

  Only the decays, the fourth, may have one batch for all.
  """

  @jax.custom_batching.custom_vmap
  def call(*arrays):
    return function(*arrays)

  @call.def_vmap
  def _(size, batched, *arrays):
    B = arrays[0].shape[1 if batched[0] else 0]
    joined = [_joined(size, B, x, mapped) for x, mapped in zip(arrays, batched)]
    if arrays[3] is not None and not batched[3] and arrays[3].shape[0] == 1:
      joined[3] = arrays[3]  # decays may be the same for all batches
    results = call(*joined)
    split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
    return split, jax.tree.map(lambda _: True, split)

  return call


def _joined(size, B, x, mapped):
  """(size B, ...) of (size, B|1, ...) or (B|1, ...)."""
  if x is None:
    return None
  x = x if mapped else x[None]
  x = jnp.broadcast_to(x, (size, B, *x.shape[2:]))
  return x.reshape(size * B, *x.shape[2:])
