"""Division of arrays: the axes of a mesh that a label is divided over, by which sizes.

A label names an axis of arrays along which the parts of a computation are independent:
"batch", "heads". Its sizes may differ from array to array: N query heads and K key
heads, or 1 where all parts read the same entry. On D devices an axis of size s is
divided if D divides s; if s divides D, each device takes one of the s entries. An axis
with the label WHOLE is whole on every device, as one without a label is, and is meant
to be: no warning says that it is gathered.
"""

import math
import warnings
from collections.abc import Mapping, Sequence

import jax
from jax.experimental.custom_partitioning import (
  ArrayMapping,
  CompoundFactor,
  SdyShardingRule,
)
from jax.sharding import PartitionSpec as P

WHOLE = "whole"
Labels = tuple[str | None, ...]
Axes = Mapping[str, tuple[str, ...]]


def padded(labels: P, rank: int) -> Labels:
  """Returns the labels of all axes of an array; those that are left out have none."""
  if len(labels) > rank:
    raise ValueError(f"labels {tuple(labels)} of an array with {rank} axes")
  return (*labels, *(None,) * (rank - len(labels)))


def sizes(labels: Sequence[Labels], shapes) -> dict[str, set[int]]:
  """Returns the sizes that the axes of each label have."""
  found: dict[str, set[int]] = {}
  for names, shape in zip(labels, shapes, strict=True):
    for name, size in zip(names, shape, strict=True):
      if name is not None:
        found.setdefault(name, set()).add(size)
  return found


def chosen(labels: Sequence[Labels], shapes, specs, mesh: Mapping[str, int]) -> Axes:
  """Returns the mesh axes that each label is divided over, of the first array with any.

  Args:
    labels: of each array.
    shapes: of each array.
    specs: the PartitionSpec of each array, or None.
    mesh: the size of each axis of the mesh.
  """
  axes: dict[str, tuple[str, ...]] = {}
  every = sizes(labels, shapes)
  for names, spec in zip(labels, specs, strict=True):
    for name, given in zip(names, spec or ()):
      if name in (None, WHOLE) or given is None or name in axes:
        continue
      taken = {axis for one in axes.values() for axis in one}
      given = tuple(a for a in _names(given) if a in mesh and a not in taken)
      own = fitting(given, every[name], mesh)
      if own:
        axes[name] = own
  return axes


def _names(entry) -> tuple[str, ...]:
  return tuple(entry) if isinstance(entry, tuple | list) else (entry,)


def warn_of_gathering(labels: Sequence[Labels], shapes, specs) -> None:
  """Warns of an array that is sharded over an axis without a label, such as tokens."""
  for names, shape, spec in zip(labels, shapes, specs, strict=True):
    for place, (name, given) in enumerate(zip(names, spec or ())):
      if name is None and given:
        warnings.warn(
          f"an array {shape} is sharded over its axis {place}, which a fused kernel"
          " does not divide: each device gathers it. Attention over divided tokens is"
          " attnjax.combine inside jax.shard_map",
          stacklevel=2,
        )


def fitting(axes, every, mesh):
  """Returns the longest prefix of the axes that all sizes allow."""
  while axes:
    number = math.prod(mesh[a] for a in axes)
    if max(every) % number == 0 and all(not (s % number and number % s) for s in every):
      return axes
    axes = axes[:-1]
  return ()


def spec(labels: Labels, shape, axes: Axes, mesh: Mapping[str, int]) -> P:
  """Returns the PartitionSpec of an array whose labels are divided over `axes`."""
  entries = []
  for name, size in zip(labels, shape, strict=True):
    own = axes.get(name, ()) if name is not None else ()
    whole = not own or size % math.prod(mesh[a] for a in own)
    entries.append(None if whole else own if len(own) > 1 else own[0])
  return P(*entries)


def taken(x, labels: Labels, shape, axes: Axes, mesh: Mapping[str, int]):
  """Slices a device's entry out of each axis that is too small to be divided."""
  for place, (name, size) in enumerate(zip(labels, shape, strict=True)):
    index = _entry(name, size, axes, mesh)
    if index is not None:
      x = jax.lax.dynamic_slice_in_dim(x, index, 1, place)
  return x


def given_back(x, labels: Labels, shape, axes: Axes, mesh: Mapping[str, int]):
  """Adds up over devices what each computed for its entry; transposes `taken`."""
  summed: tuple[str, ...] = ()
  for place, (name, size) in enumerate(zip(labels, shape, strict=True)):
    own = axes.get(name, ()) if name is not None else ()
    if not own or size % math.prod(mesh[a] for a in own) == 0:
      continue
    summed += own
    index = _entry(name, size, axes, mesh)
    if index is not None:
      whole = jax.numpy.zeros((*x.shape[:place], size, *x.shape[place + 1 :]), x.dtype)
      x = jax.lax.dynamic_update_slice_in_dim(whole, x, index, place)
  return jax.lax.psum(x, summed) if summed else x


def _entry(name, size, axes, mesh):
  own = axes.get(name, ()) if name is not None else ()
  number = math.prod(mesh[a] for a in own)
  if size == 1 or size % number == 0:
    return None
  return jax.lax.axis_index(own) // (number // size)


def rule(inputs, outputs, labels_in, labels_out, mesh) -> SdyShardingRule:
  """Returns the rule of propagation: axes with one label are sharded together.

  Args:
    inputs: the shapes of the inputs.
    outputs: the shapes of the outputs.
    labels_in: the labels of each input.
    labels_out: the labels of each output.
    mesh: the sizes of the mesh's axes.
  """
  every = sizes((*labels_in, *labels_out), (*inputs, *outputs))
  base = {name: _shared_size(found, mesh) for name, found in every.items()}
  number, given = 0, {}

  def factor(name, size):
    nonlocal number
    if name in (None, WHOLE) or size == 1:
      number += 1
      return f"x{number}"
    if not base[name]:
      return f"{name}_{size}"
    if size == base[name]:
      return name
    rest = f"{name}_by_{size // base[name]}"
    given[rest] = size // base[name]
    return CompoundFactor(name, rest)

  def mapping(names, shape):
    return ArrayMapping(*(factor(n, s) for n, s in zip(names, shape, strict=True)))

  operands = tuple(map(mapping, labels_in, inputs))
  results = tuple(map(mapping, labels_out, outputs))
  return SdyShardingRule(operands, results, **given)


def _shared_size(found: set[int], mesh) -> int:
  """Returns the least size, if it divides all others and mesh axes can divide it.

  Else 0: then no sharding propagates between axes of different sizes.
  """
  found = found - {1}
  least = min(found, default=1)
  multiples = all(size % least == 0 for size in found)
  partly = any(
    least % axis and any(size % axis == 0 for size in found) for axis in mesh
  )
  return least if multiples and not partly else 0
