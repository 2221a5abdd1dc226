"""A primitive that runs a function on each device's part of its arguments."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend import core as jex
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding

from attnjax.core.devices import decoding, division, mapped
from attnjax.core.devices.alignment import labels_of
from attnjax.core.devices.context import described, no_mesh, vary


def per_device(
  function: Callable, inputs: Sequence[Any], outputs: Any, *, local: bool = True
) -> Callable:
  """Wraps `function`, so that each device runs it on its part of the arguments.

  The mesh and the axes that divide a label are found from the arguments' shardings,
  whatever these axes are called: from their types if the axes are explicit, else when
  XLA has propagated shardings through the program. Axes without a label are whole on
  every device. The inside of the function is hidden from JAX's types: inside
  `jax.shard_map` its results vary over what any argument varies over.

  The result has no derivative; it is for the two passes of a custom one.

  Args:
    function: takes and returns pytrees of arrays, and closes over none.
    inputs: of each argument a PartitionSpec of labels, or a pytree of them. See
      `division` for labels and sizes.
    outputs: as `inputs`, of the results. Results for an entry that devices share are
      summed.
    local: False leaves it to XLA to partition the function.
  """

  def run(*arguments):
    arguments = vary(jax.tree.map(jnp.asarray, arguments))
    flat, tree = jax.tree.flatten(arguments)
    with no_mesh():
      whole, results = jax.make_jaxpr(function, return_shape=True)(*_shapes(arguments))

    def flattened(*flat):
      return jax.tree.leaves(function(*tree.unflatten(flat)))

    labels = labels_of(tuple(inputs), arguments), labels_of(outputs, results)
    found = _bind(_Part(flattened, *labels, local), flat, whole)
    return jax.tree.unflatten(jax.tree.structure(results), found)

  return run


def _shapes(arrays):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
  """A function of arrays, and the labels of its inputs and outputs."""

  function: Callable
  inputs: tuple[division.Labels, ...]
  outputs: tuple[division.Labels, ...]
  local: bool

  def mapped(self, axes, name: str) -> "_Part":
    """Returns the function under `jax.vmap`, whose axis gets a label too."""
    inputs = tuple(
      labels if axis is None else (name, *labels)
      for labels, axis in zip(self.inputs, axes)
    )
    outputs = tuple((name, *labels) for labels in self.outputs)
    return _Part(jax.vmap(self.function, axes), inputs, outputs, self.local)


def _bind(part: _Part, flat, whole):
  if whole.effects:  # a kernel in a simulator, which runs on one device
    return part.function(*flat)
  divided = None
  if part.local and _divisible():
    with no_mesh():
      divided = jax.make_jaxpr(_partitioned(part, whole))(*_shapes(flat))
  plan = mapped.plan(part.inputs, flat)
  return _per_device.bind(*flat, whole=whole, divided=divided, part=part, plan=plan)


def _divisible() -> bool:
  """Returns whether the program may run on devices over which XLA divides arrays."""
  mesh = jax.sharding.get_abstract_mesh()
  alone = not mesh.empty and (mesh.size == 1 or mesh.manual_axes == mesh.axis_names)
  return not alone and not described()


def _partitioned(part: _Part, whole):
  """Wraps the function with the callbacks that XLA's partitioner asks for."""
  setting, labels_out = jax.config.jax_enable_x64, part.outputs
  results = whole.out_avals

  def divide(mesh, arguments, wanted):
    del wanted
    given = [x.shape for x in arguments]
    mesh = decoding.split(mesh, arguments[0].sharding)
    specs = [decoding.spec(x.sharding, x.shape, mesh) for x in arguments]
    axes = division.chosen(part.inputs, given, specs, mesh.shape)
    division.warn_of_gathering(part.inputs, given, specs)

    def run(*parts):
      with no_mesh(), jax.enable_x64(setting):
        own = [
          division.taken(x, labels, shape, axes, mesh.shape)
          for x, labels, shape in zip(parts, part.inputs, given)
        ]
        return [
          division.given_back(x, labels, like.shape, axes, mesh.shape)
          for x, labels, like in zip(part.function(*own), labels_out, results)
        ]

    def place(labels, shape):
      return NamedSharding(mesh, division.spec(labels, shape, axes, mesh.shape))

    outputs = [place(labels, x.shape) for labels, x in zip(labels_out, results)]
    return mesh, run, outputs, tuple(map(place, part.inputs, given))

  def rule(mesh, arguments, given):
    before, after = ([tuple(x.shape) for x in side] for side in (arguments, given))
    return division.rule(before, after, part.inputs, labels_out, mesh.shape.values())

  def alone(*arguments):
    return jex.jaxpr_as_fun(whole)(*arguments)

  call = custom_partitioning(alone)
  call.def_partition(divide, decode_shardings=False, sharding_rule=rule)
  return call


_per_device = jex.Primitive("per_device")
_per_device.multiple_results = True


@_per_device.def_impl
def _run(*arguments, whole, **options):
  if any(len(x.sharding.device_set) > 1 for x in arguments):
    return jax.jit(lambda *x: _per_device.bind(*x, whole=whole, **options))(*arguments)
  return jex.jaxpr_as_fun(whole)(*arguments)


@_per_device.def_abstract_eval
def _types(*avals, whole, divided, part, plan):
  del divided, plan
  mesh, axes = mapped.explicit(part.inputs, avals)
  like = next((a for a in avals if a.sharding.mesh == mesh), avals[0])
  return [
    like.update(
      shape=x.shape,
      dtype=x.dtype,
      weak_type=False,
      sharding=NamedSharding(mesh, division.spec(labels, x.shape, axes, mesh.shape)),
    )
    for x, labels in zip(whole.out_avals, part.outputs)
  ]


def _lowered(context, *arguments, whole, divided, part, plan, asks=True):
  """Lowers for one device, for a mesh, or for a compiler that asks how to divide."""
  parameters = context.module_context.lowering_parameters
  if part.local and plan.is_for_many() and not (asks and divided):
    return _lowered_mapped(context, arguments, whole, part, plan)
  asking = asks and divided and not parameters.for_export
  run = jex.jaxpr_as_fun(divided if asking else whole)
  with no_mesh():
    plain = context.replace(avals_in=whole.in_avals)
    return mlir.lower_fun(run, multiple_results=True)(plain, *arguments)


def _lowered_mapped(context, arguments, whole, part, plan):
  shapes = [x.shape for x in whole.in_avals], [x.shape for x in whole.out_avals]
  run = mapped.mapped(part.function, part.inputs, part.outputs, shapes, plan)
  with jax.sharding.use_abstract_mesh(plan.mesh):
    return mlir.lower_fun(run, multiple_results=True)(context, *arguments)


def _batched(arguments, axes, *, whole, divided, part, plan):
  del whole, divided, plan
  known = {name for labels in part.inputs for name in labels}
  name = next(f"map{i}" for i in range(len(known) + 1) if f"map{i}" not in known)
  arguments = [
    x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arguments, axes)
  ]
  axes = [None if axis is None else 0 for axis in axes]
  own, arguments = part.mapped(axes, name), vary(arguments)
  with no_mesh():
    whole = jax.make_jaxpr(own.function)(*_shapes(arguments))
  results = _bind(own, arguments, whole)
  return results, [0] * len(results)


mlir.register_lowering(_per_device, _lowered)
# jax-ml/jax#38196
mlir.register_lowering(
  _per_device, functools.partial(_lowered, asks=False), platform="tpu"
)
batching.primitive_batchers[_per_device] = _batched
