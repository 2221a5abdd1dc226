"""Kernels under `jax.vmap`: the mapped axis becomes part of the batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

# Bytes of copies that one call may take; else groups of mapped indices have their own.
_ROOM = 64 << 20


@dataclasses.dataclass(frozen=True)
class Layout:
  """The axes of a pass's arrays, for meshes and for `jax.vmap`.

  Attributes:
    inputs: for each argument, a PartitionSpec of the labels "batch" and "heads" of its
      axes, or a pytree of them (`attnjax.core.devices`). A batch is the first axis.
    outputs: as `inputs`, of the results, which all have a batch.
    shared: the arguments whose batch may have size 1 and broadcast: these are not
      copied for the entries of a mapped axis.
    gradients: maps a result to the shared argument in whose shape it is the gradient.
    apart: computes a call in which an argument without a batch is mapped, by
      (call, size, which, arguments); None computes one entry of the mapped axis after
      the other.
  """

  inputs: tuple[Any, ...]
  outputs: Any
  shared: tuple[int, ...] = ()
  gradients: Mapping[int, int] = dataclasses.field(default_factory=dict)
  apart: Callable | None = None


@dataclasses.dataclass(frozen=True)
class _Leaf:
  """An array of the arguments of a mapped call.

  Attributes:
    array: with the mapped axis first, if it has it.
    mapped: whether the array has the mapped axis.
    batch: whether the array has a batch axis.
    shared: whether the batch may have size 1.
    summed: whether a result is the gradient by this array.
  """

  array: Any
  mapped: bool
  batch: bool
  shared: bool
  summed: bool

  @property
  def rows(self) -> int:
    """Returns the size of the batch."""
    return self.array.shape[1 if self.mapped else 0]

  def joined(self, size: int, rows: int):
    """Returns the array as (size rows, ...), or (1, ...) if the batch shares it."""
    x = self.array
    if not self.batch:
      return x
    if self.shared and not self.mapped and not self.summed and x.shape[0] == 1:
      return x
    x = x if self.mapped else x[None]
    x = jnp.broadcast_to(x, (size, rows, *x.shape[2:]))
    return x.reshape(size * rows, *x.shape[2:])

  def copied(self, size: int, rows: int) -> int:
    """Returns the bytes that `joined` copies, those of the gradient included."""
    if not self.shared:
      return 0
    one = self.rows == 1
    width = self.array.dtype.itemsize + (4 if self.summed else 0)
    if self.mapped:
      return (rows - 1) * self.array.size * width if one else 0
    if one and not self.summed:
      return 0
    return (size - 1) * self.array.size * width * (rows if one else 1)


def batched(function: Callable, layout: Layout, **constants: Any) -> Callable:
  """Returns function(*arguments, **constants) with a rule for `jax.vmap`."""

  @jax.custom_batching.custom_vmap
  def call(*arguments):
    return function(*arguments, **constants)

  @call.def_vmap
  def _(size, which, *arguments):
    results = mapped(call, layout, size, tuple(which), arguments)
    return results, jax.tree.map(lambda _: True, results)

  return call


def mapped(call: Callable, layout: Layout, size: int, which, arguments):
  """Returns the results of one call on (size B) batches, as (size, B, ...).

  Args:
    call: made by `batched`.
    layout: of its arguments and results.
    size: of the mapped axis, which is the first axis of a mapped array.
    which: a tree like `arguments` of booleans: whether an array is mapped.
    arguments: the arrays; None for an array that is not given.
  """
  tree = jax.tree.structure(arguments)
  leaves = _leaves(layout, which, arguments)
  if any(leaf.mapped and not leaf.batch for leaf in leaves):
    if layout.apart is not None:
      return layout.apart(call, size, which, arguments)
    return _in_groups(call, size, which, arguments, 1)
  rows = next(leaf.rows for leaf in leaves if leaf.batch and not leaf.shared)
  copied = sum(leaf.copied(size, rows) for leaf in leaves)
  if copied > _ROOM and size > 1:
    return _in_groups(call, size, which, arguments, _ROOM * size // copied)
  results = call(*tree.unflatten([leaf.joined(size, rows) for leaf in leaves]))
  results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
  if not layout.gradients:
    return results
  results, each = list(results), tree.unflatten(leaves)
  for place, argument in layout.gradients.items():
    results[place] = _summed(results[place], jax.tree.leaves(each[argument]))
  return tuple(results)


def _leaves(layout: Layout, which, arguments) -> list[_Leaf]:
  found = []
  for place, (labels, argument, own) in enumerate(
    zip(layout.inputs, arguments, which, strict=True)
  ):
    labels = jax.tree.broadcast(labels, argument, is_leaf=_is_spec)
    labels, shared = jax.tree.leaves(labels, is_leaf=_is_spec), place in layout.shared
    arrays = jax.tree.leaves(argument), jax.tree.leaves(own)
    for names, array, mapped in zip(labels, *arrays, strict=True):
      summed = place in layout.gradients.values()
      summed = summed and jnp.issubdtype(array.dtype, jnp.floating)
      batch = bool(names) and names[0] == "batch"
      found.append(_Leaf(array, mapped, batch, shared, summed))
  return found


def _is_spec(x) -> bool:
  return isinstance(x, P)


def _summed(gradients, leaves: list[_Leaf]):
  """Reduces gradients (size, B, ...) to the batch sizes of their arguments."""
  flat, tree = jax.tree.flatten(gradients, is_leaf=lambda x: x is None)
  return tree.unflatten(
    x if x is None or leaf.rows > 1 else x.sum(axis=1, keepdims=True)
    for x, leaf in zip(flat, leaves, strict=True)
  )


def _in_groups(call, size: int, which, arguments, group: int):
  """Computes groups of the mapped axis's entries, one group after the other."""
  flat, tree = jax.tree.flatten(arguments)
  which = jax.tree.leaves(which)

  def one(i):
    own = [x[i] if mapped else x for x, mapped in zip(flat, which, strict=True)]
    return call(*tree.unflatten(own))

  several = group if group > 1 else None
  return jax.lax.map(one, jnp.arange(size), batch_size=several)
