"""Computations by `jax.shard_map`, over axes that are known when they are traced."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from attnjax.core.devices import division, naming
from attnjax.core.devices.context import mesh_of


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """What is known, when a program is traced, of how its arrays are divided.

  Attributes:
    mesh: an abstract mesh, empty if none is known.
    axes: those that share each label out by the arrays' types.
    names: what `naming.setting` said.
  """

  mesh: jax.sharding.AbstractMesh
  axes: division.Axes
  names: naming.Named | None

  @property
  def automatic(self) -> frozenset[str]:
    """The axes that the program is not mapped over yet."""
    return frozenset(self.mesh.axis_names) - frozenset(self.mesh.manual_axes)

  def is_for_many(self) -> bool:
    """Whether there are axes to be mapped over."""
    return any(self.mesh.shape[axis] > 1 for axis in self.automatic)


def plan(labels: Sequence[division.Labels], arrays) -> Plan:
  """What is known of how arrays are divided."""
  mesh, axes = explicit(labels, [jax.typeof(x) for x in arrays])
  return Plan(mesh_of(arrays) if mesh.empty else mesh, axes, naming.setting.value)


def explicit(labels: Sequence[division.Labels], types):
  """The mesh of the types, and its axes that share each label out by their types."""
  mesh = next((a.sharding.mesh for a in types if not a.sharding.mesh.empty), None)
  if mesh is None:
    return types[0].sharding.mesh, {}
  shapes, specs = zip(*((a.shape, a.sharding.spec) for a in types))
  return mesh, division.chosen(labels, shapes, specs, mesh.shape)


def mapped(function: Callable, inputs, outputs, shapes, plan: Plan) -> Callable:
  """The function, run by each device on its part.

  Args:
    function: takes and gives lists of arrays.
    inputs: the labels of each input.
    outputs: the labels of each output.
    shapes: (of the inputs, of the outputs).
    plan: of a mesh.
  """
  given, results = shapes
  mesh = plan.mesh
  axes = naming.chosen(inputs, given, mesh, plan.axes, plan.names)

  def specs(labels, shapes):
    return tuple(
      division.spec(one, shape, axes, mesh.shape) for one, shape in zip(labels, shapes)
    )

  def run(*parts):
    own = [
      division.taken(x, labels, shape, axes, mesh.shape)
      for x, labels, shape in zip(parts, inputs, given)
    ]
    return tuple(
      division.given_back(x, labels, shape, axes, mesh.shape)
      for x, labels, shape in zip(function(*own), outputs, results)
    )

  return jax.shard_map(
    run,
    mesh=mesh,
    in_specs=specs(inputs, given),
    out_specs=specs(outputs, results),
    axis_names=set(plan.automatic),
    check_vma=False,
  )
