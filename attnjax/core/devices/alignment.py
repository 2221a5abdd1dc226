"""Arguments whose types fit each other, and the labels of their axes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from attnjax.core.devices import division, mapped
from attnjax.core.devices.context import vary


def aligned(arguments, specs: Sequence[Any]):
  """Gives arguments types that fit each other and the results of `per_device`.

  The arguments then vary over equal manual axes, and explicit axes divide a label in
  all of them; the gradients of changed arguments are summed and divided as before.

  Args:
    arguments: a tuple of pytrees.
    specs: of labels, as `per_device` takes them.
  """
  arguments = vary(arguments)
  flat, tree = jax.tree.flatten(arguments)
  labels, mesh, axes = _explicit(arguments, specs)
  if axes:
    own = [
      division.spec(n, jnp.shape(x), axes, mesh.shape) for n, x in zip(labels, flat)
    ]
    flat = [
      x
      if jax.typeof(x).sharding.spec == spec
      else reshard(x, NamedSharding(mesh, spec))
      for x, spec in zip(flat, own)
    ]
  return jax.tree.unflatten(tree, flat)


def divided(arguments, specs: Sequence[Any]) -> bool:
  """Returns whether explicit axes divide a label of the arguments, as `aligned`."""
  return bool(_explicit(arguments, specs)[2])


def _explicit(arguments, specs) -> tuple[Any, Any, division.Axes]:
  """Returns (the labels of arrays, their mesh, the axes that divide each label)."""
  labels = labels_of(tuple(specs), arguments)
  types = [jax.typeof(x) for x in jax.tree.leaves(arguments)]
  mesh, axes = mapped.explicit(labels, types)
  return labels, mesh, axes


def labels_of(specs, arguments):
  """Returns the labels of every array of the arguments, from specs of labels."""

  def is_spec(x):
    return isinstance(x, P)

  specs = jax.tree.broadcast(specs, arguments, is_leaf=is_spec)
  specs, arrays = jax.tree.leaves(specs, is_leaf=is_spec), jax.tree.leaves(arguments)
  return tuple(
    division.padded(spec, jnp.ndim(x)) for spec, x in zip(specs, arrays, strict=True)
  )
