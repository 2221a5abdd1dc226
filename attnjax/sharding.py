"""Sharding of parameters, by rules on their paths, and the division of attention.

Layers know nothing of meshes. The mesh made here has the axes "data" (batches;
parameters are sharded over it too, as in FSDP) and "model" (tensor parallelism: heads,
MLP width). A rule is (pattern of the path, mesh axes of the last dimensions); leading
dimensions, where blocks are stacked, are not sharded.

Attention and the fused kernels need no such names. They take the axes of batches and
of heads from the shardings of their arguments, on any mesh, Auto or Explicit, with or
without `jax.set_mesh`: each device computes its own batches and heads, forward and
backward, and results lie as queries do; see `attnjax.core.devices`. With fewer key
heads than devices that share the query heads out, keys and values are whole on each.
Tokens are not divided: an array that is sharded over them is gathered first; to divide
a sequence, call attention inside `jax.shard_map` and join the parts by
`attnjax.combine`. Inside `jax.shard_map` each call computes its device's part.

The compiler of TPUs does not ask how a kernel is divided (jax-ml/jax#38196). There the
mesh of the arguments' types is taken: Explicit axes divide as the types say; of Auto
axes the names say whether they divide batches ("data", "fsdp", "expert", ...), heads
("model", "tensor", ...) or neither ("sequence", "context", "stage"); others are taken
for batches, with a warning. `mesh_axes` says it for other names. A wrong guess moves
arrays between devices and changes no result.

Programs for several devices hold a pointer to the function that divides them, so that
JAX's persistent compilation cache does not find those again in another process unless
jax_remove_custom_partitioning_ptr_from_cache_key is set.
"""

import contextlib
import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from attnjax.core.devices import naming

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
  """Makes a mesh of Auto axes over all devices; -1 means the rest.

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
  if -1 not in sizes and known != count:
    raise ValueError(
      f"mesh.data = {data} x mesh.model = {model} asks for {known} devices, and there"
      f" are {count}; -1 takes the rest"
    )
  if count % known:
    name = AXES[1 - sizes.index(-1)]
    raise ValueError(f"mesh.{name} = {known} does not divide the {count} devices")
  sizes = [count // known if s == -1 else s for s in sizes]
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


@contextlib.contextmanager
def mesh_axes(batch: str | Sequence[str] = (), heads: str | Sequence[str] = ()):
  """Says which Auto axes of a mesh divide batches and heads in fused kernels on TPUs.

  It holds for calls, and for traces by `jax.jit`, inside the context; elsewhere names
  decide. Axes that are neither for batches nor for heads divide nothing in a kernel.

  Args:
    batch: the axes of the mesh for batches, one or several, the slowest first.
    heads: the axes of the mesh for heads, one or several, the slowest first.

  Raises:
    ValueError: if an axis is named twice.
  """
  both = [(one,) if isinstance(one, str) else tuple(one) for one in (batch, heads)]
  twice = [axis for i, axis in enumerate(sum(both, ())) if axis in sum(both, ())[:i]]
  if twice:
    raise ValueError(f"batch={batch!r} and heads={heads!r} name {twice[0]!r} twice")
  with naming.setting(naming.Named(*both)):
    yield


def parameter_shardings(tree, mesh: Mesh):
  """Returns a tree of NamedShardings for a tree of arrays or shapes, by RULES.

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
  """Returns the path of a leaf as text, such as `stack/blocks/0/mlp/up/kernel`."""
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  return name.removesuffix("/value")


def is_stacked(path) -> bool:
  """Returns whether a leaf has a leading axis of blocks, see nn.stack."""
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
