"""Kernels under `jax.vmap`: the mapped axis becomes part of the batch."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnjax.core.scores import Program
from attnjax.core.softmax import fused

# Bytes of copies that one call may take; else groups of mapped indices have their own.
_ROOM = 64 << 20


def folded(function: Callable) -> Callable:
  """function(scale, *arrays, program, schedule) with a rule for `jax.vmap`.

  All arrays have the batch first, but sinks (N,), which only a forward kernel takes.
  """

  def run(*arguments, scale):
    @jax.custom_batching.custom_vmap
    def call(*arguments):
      return function(scale, *arguments)

    @call.def_vmap
    def _(size, batched, *arguments):
      return _mapped(call, size, batched, arguments)

    return call(*arguments)

  return run


def _mapped(call, size, batched, arguments):
  """The results of one call on (size B) batches, as (size, B, ...)."""
  *arrays, program, schedule = arguments
  forward = len(arrays) == 4
  if forward and batched[3]:
    return _with_sinks(call, size, batched, arguments)
  B = arrays[0].shape[1 if batched[0] else 0]
  which = batched[-2].operands
  copied = _copied(size, B, program.operands, which, forward)
  if copied > _ROOM and size > 1:
    return _in_groups(call, size, batched, arguments, _ROOM * size // copied)
  join = functools.partial(_joined, size, B)
  kept = (3,) if forward else ()
  arrays = [
    x if i in kept or x is None else join(x, mapped)
    for i, (x, mapped) in enumerate(zip(arrays, batched))
  ]
  operands = tuple(
    join(x, mapped, not forward and _floats(x))
    for x, mapped in zip(program.operands, which)
  )
  own = Program(operands, program.score, program.seen, program.keep)
  results = call(*arrays, own, jax.tree.map(join, schedule, batched[-1]))
  split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
  if not forward:
    *d, doperands = split
    own_sums = map(_own, doperands, program.operands, which)
    split = *d, tuple(own_sums)
  return split, jax.tree.map(lambda _: True, split)


def _with_sinks(call, size, batched, arguments):
  """Sinks that differ join the softmax afterwards."""
  q, k, v, sinks, *rest = arguments
  without = [*batched[:3], False, *batched[4:]]
  found, which = _mapped(call, size, without, (q, k, v, None, *rest))
  out, top, total = jax.vmap(fused.with_sinks)(*found, sinks)
  return (out.astype(found[0].dtype), top, total), which


def _floats(x) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)


def _copied(size, B, operands, which, forward: bool) -> int:
  """Bytes of copies of operands, and of their gradients, that one call makes."""
  copies = 0
  for x, mapped in zip(operands, which, strict=True):
    shared = x.shape[1 if mapped else 0] == 1
    if mapped and shared or not mapped and not (shared and (forward or not _floats(x))):
      width = x.dtype.itemsize if forward else x.dtype.itemsize + 4
      times = B - 1 if mapped else size - 1
      copies += times * x.size * width * (B if shared and not mapped else 1)
  return copies


def _joined(size, B, x, mapped, apart=False):
  """(size B, ...) of (size, B|1, ...) or (B|1, ...); (1, ...) if nothing differs.

  `apart` asks for (size B, ...) all the same: each batch then has its own gradient.
  """
  x = jnp.asarray(x)
  if not mapped and x.shape[0] == 1 and not apart:
    return x
  x = x if mapped else x[None]
  x = jnp.broadcast_to(x, (size, B, *x.shape[2:]))
  return x.reshape(size * B, *x.shape[2:])


def _own(gradient, operand, mapped):
  """(size, B, ...) summed to the operand's own batches."""
  if gradient is None or operand.shape[1 if mapped else 0] > 1:
    return gradient
  return gradient.sum(axis=1, keepdims=True)


def _in_groups(call, size, batched, arguments, group: int):
  flat, tree = jax.tree.flatten(arguments)
  which = jax.tree.leaves(batched)

  def one(i):
    own = [x[i] if mapped else x for x, mapped in zip(flat, which, strict=True)]
    return call(*jax.tree.unflatten(tree, own))

  several = group if group > 1 else None
  results = jax.lax.map(one, jnp.arange(size), batch_size=several)
  return results, jax.tree.map(lambda _: True, results)
