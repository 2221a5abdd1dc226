"""Tracing apart from the mesh in force, and values that vary over its manual axes."""

import contextlib

import jax
import jax.numpy as jnp
from jax._src.mesh import get_concrete_mesh
from jax.sharding import AbstractMesh, reshard


@contextlib.contextmanager
def no_mesh():
  """Traces as on one device: arrays have no shardings and do not vary.

  The description of the device itself is kept.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
    yield


@contextlib.contextmanager
def at_once():
  """Computes known arrays now, by this host, while a program for others is traced.

  Nothing can run under a mesh that is only described.
  """
  with no_mesh(), jax.ensure_compile_time_eval():
    yield


def described() -> bool:
  """Returns whether the mesh in force is only a description, without devices."""
  # JAX has no public function for this that works inside a traced function.
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and not mesh.manual_axes and get_concrete_mesh().empty


def mesh_of(arrays) -> AbstractMesh:
  """Returns the mesh in force, or that of an array's type; empty if none is known."""
  mesh = jax.sharding.get_abstract_mesh()
  meshes = (mesh, *(jax.typeof(x).sharding.mesh for x in arrays))
  return next((found for found in meshes if not found.empty), mesh)


def varies(x) -> frozenset[str]:
  """Returns the manual axes of a mesh that an array varies over."""
  return jax.typeof(x).manual_axis_type.varying


def vary(tree):
  """Makes all arrays of a tree vary over the manual axes that any of them varies over.

  Inside `jax.shard_map` a loop's carry must vary as the terms added to it do, and so
  must all operands of a primitive. The gradient of an array that did not vary before is
  summed over those axes. NumPy arrays and numbers are left as they are.
  """
  arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
  axes = frozenset[str]().union(*(varies(x) for x in arrays))
  if not axes:
    return tree

  def one(x):
    missing = axes - varies(x) if isinstance(x, jax.Array) else None
    return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x

  return jax.tree.map(one, tree)


def vary_like(x, *others):
  """Makes a tree vary over the manual axes that it or any of the others varies over."""
  return vary((x, others))[0]


def zeros(kind):
  """Returns zeros of a type, with its shape, its varying axes and its sharding."""
  x = jnp.zeros(kind.shape, kind.dtype)
  axes = tuple(sorted(kind.manual_axis_type.varying))
  x = jax.lax.pcast(x, axes, to="varying") if axes else x
  explicit = any(entry is not None for entry in kind.sharding.spec)
  return reshard(x, kind.sharding) if explicit else x
