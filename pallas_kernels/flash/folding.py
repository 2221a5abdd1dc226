"""Kernels under `jax.vmap`: the mapped axis becomes part of the batch."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnjax.core.scores import Program


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
  if forward and batched[3]:  # sinks that differ: one call each
    return _one_by_one(call, size, batched, arguments)
  B = arrays[0].shape[1 if batched[0] else 0]
  join = functools.partial(_joined, size, B)
  kept = (3,) if forward else ()
  arrays = [
    x if i in kept or x is None else join(x, mapped)
    for i, (x, mapped) in enumerate(zip(arrays, batched))
  ]
  operands = tuple(
    join(x, mapped, jnp.issubdtype(x.dtype, jnp.floating))
    for x, mapped in zip(program.operands, batched[-2].operands)
  )
  own = Program(operands, program.score, program.seen, program.keep)
  results = call(*arrays, own, jax.tree.map(join, schedule, batched[-1]))
  split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
  if not forward:
    *d, doperands = split
    split = (
      *d,
      tuple(
        _own(x, operand, mapped)
        for x, operand, mapped in zip(doperands, program.operands, batched[-2].operands)
      ),
    )
  return split, jax.tree.map(lambda _: True, split)


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


def _one_by_one(call, size, batched, arguments):
  flat, tree = jax.tree.flatten(arguments)
  which = jax.tree.leaves(batched)

  def one(i):
    own = [x[i] if mapped else x for x, mapped in zip(flat, which)]
    return call(*jax.tree.unflatten(tree, own))

  results = jax.lax.map(one, jnp.arange(size))
  return results, jax.tree.map(lambda _: True, results)
