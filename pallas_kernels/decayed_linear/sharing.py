"""Kernels under a mesh and under `jax.vmap`: both cut or join batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax import sharding


def forward(function: Callable, x, documents):
  """(out, state) of a backend's forward, on each device's batches and heads."""

  def run(*arguments):
    return function(arguments[:5], arguments[5])

  batch, heads = _axes(x)
  specs = _specs(x, documents, batch, heads)
  outputs = P(batch, None, heads), P(batch, heads)
  return _per_device(_folded(run), specs, outputs)(*x, documents)


def backward(function: Callable, x, documents, cotangents, decay: bool):
  """Gradients by q, k, v, log_decay (None if not `decay`) and the initial state."""
  log_decay, state = x[3:]

  def run(*arguments):
    return function(arguments[:5], arguments[5], arguments[6:], decay=decay)

  batch, heads = _axes(x)
  arrays = P(batch, None, heads)
  specs = (*_specs(x, documents, batch, heads), arrays, P(batch, heads))
  outputs = arrays, arrays, arrays, arrays if decay else None, P(batch, heads)
  *d, slopes, before = _per_device(_folded(run), specs, outputs)(
    *x, documents, *cotangents
  )
  if decay:
    axes = [a for a in (0, 2) if log_decay.shape[a] < slopes.shape[a]]
    slopes = slopes.sum(axis=axes, keepdims=True)
  return *d, slopes, None if state is None else before


def _axes(x):
  """The mesh axes that share batches and heads out, or None."""
  if not sharding.shared():
    return None, None
  q, k = x[:2]
  return sharding.divides("data", q.shape[0]), sharding.divides("model", k.shape[2])


def _specs(x, documents, batch, heads):
  log_decay, state = x[3:]
  decay = None
  if log_decay is not None:
    decay = P(
      batch if log_decay.shape[0] > 1 else None,
      None,
      heads if log_decay.shape[2] > 1 else None,
    )
  return (
    *(P(batch, None, heads),) * 3,
    decay,
    None if state is None else P(batch, heads),
    None if documents is None else P(batch),
  )


def _per_device(function, specs, outputs):
  if not sharding.shared():
    return function
  return sharding.per_device(function, specs, outputs)


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
