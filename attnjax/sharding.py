"""Where arrays live: parameters by rules on their path, kernels by blocks.

Layers know nothing of meshes. A mesh has the axes "data" (batches; parameters are
sharded over it too, as in FSDP) and "model" (tensor parallelism: heads, MLP width).
A rule is (pattern of the path, mesh axes of the last dimensions); leading dimensions,
where blocks are stacked, are not sharded.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "model")

# The first pattern that matches the end of a path decides.
RULES = (
  (r"(query|key|value|gate)/kernel", ("data", "model", None)),  # (D, N, H)
  (r"(query|key|value|gate)/kernel", ("data", "model")),  # (D, hidden)
  (r"out/kernel", ("model", None, "data")),  # (N, H, D)
  (r"up/kernel", ("data", "model")),
  (r"down/kernel", ("model", "data")),
  (r"embed/embedding", ("model", "data")),
  (r"head/kernel", ("data", "model")),
)


def make_mesh(data: int = -1, model: int = 1, devices: Sequence | None = None) -> Mesh:
  """A mesh of Auto axes over all devices; -1 means the rest.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes, count = [data, model], len(devices)
  for axis, size in zip(AXES, sizes):
    if size != -1 and size < 1:
      raise ValueError(
        f"mesh.{axis} = {size}; it must be 1 or more, or -1 for the rest"
      )
  known = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) == 2:
    raise ValueError("mesh.data = mesh.model = -1; only one can be the rest")
  if count % known or (-1 not in sizes and known != count):
    raise ValueError(
      f"mesh.data = {data} x mesh.model = {model} does not divide {count} devices"
    )
  sizes = [count // known if s == -1 else s for s in sizes]
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def parameter_shardings(tree, mesh: Mesh):
  """A tree of NamedShardings for a tree of arrays or shapes, by RULES.

  An array that no rule knows, or whose rank differs from the rule's, is sharded over
  "data" on its largest dimension that divides; vectors are replicated.

  Raises:
    ValueError: if a dimension that a rule names does not divide by its mesh axis.
  """

  def one(path, leaf):
    name = path_name(path)
    return NamedSharding(mesh, _spec(name, is_stacked(path), leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(one, tree)


def path_name(path) -> str:
  """`stack/blocks/0/mlp/up/kernel` for the path of a leaf."""
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  return name.removesuffix("/value")


def is_stacked(path) -> bool:
  """Whether a leaf has a leading axis of blocks, see nn.stack."""
  return re.search(r"(^|/)blocks/\d+/", path_name(path)) is not None


def _spec(name: str, stacked: bool, shape: tuple[int, ...], mesh: Mesh) -> P:
  own = shape[stacked:]
  for pattern, axes in RULES:
    if len(own) == len(axes) and re.search(rf"(^|/){pattern}$", name):
      for size, axis in zip(own, axes):
        if axis and size % mesh.shape[axis]:
          raise ValueError(
            f"{name} {shape}: {size} does not divide by mesh.{axis} ="
            f" {mesh.shape[axis]}"
          )
      return P(*(None,) * stacked, *axes)
  fits = [d for d in own if d % mesh.shape["data"] == 0]
  if len(own) < 2 or not fits:
    return P()
  place = own.index(max(fits))
  return P(*(None,) * (stacked + place), "data")


def shared() -> bool:
  """Whether a mesh is in force that shares arrays out, outside of a shard_map."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.size > 1 and not mesh.manual_axes


def divides(axis: str, size: int) -> str | None:
  """`axis` if the mesh in force has it and it divides `size`; else None."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or axis not in mesh.axis_names:
    return None
  return axis if mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None


def per_device(function: Callable, inputs: Sequence[Any], output: Any):
  """`function` on each device's block of its arguments, under the mesh in force.

  A fused kernel cannot be partitioned automatically; every call of one goes through
  here. Without a mesh, `function` is returned as it is.

  Args:
    function: takes and returns pytrees of arrays.
    inputs: the specs of each argument; axes that the mesh lacks are left out.
    output: the specs of the result.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return function

  def present(spec):
    return P(*(axis if axis in mesh.axis_names else None for axis in spec))

  def specs(tree):
    return jax.tree.map(present, tree, is_leaf=lambda x: isinstance(x, P))

  return jax.shard_map(
    function,
    in_specs=tuple(specs(i) for i in inputs),
    out_specs=specs(output),
    check_vma=False,
  )
