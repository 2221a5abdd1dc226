"""Computations by `jax.shard_map`, over axes that are known at trace time."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from attnjax.core.devices import division, naming
from attnjax.core.devices.context import mesh_of


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """The division of a program's arrays, as far as it is known at trace time.

  Attributes:
    mesh: an abstract mesh, empty if none is known.
    axes: the mesh axes over which the arrays' types divide each label.
    names: the value of `naming.setting`, or None.
  """

  mesh: jax.sharding.AbstractMesh
  axes: division.Axes
  names: naming.Named | None

  @property
  def automatic(self) -> frozenset[str]:
    """Returns the axes that the program is not mapped over yet."""
    return frozenset(self.mesh.axis_names) - frozenset(self.mesh.manual_axes)

  def is_for_many(self) -> bool:
    """Returns whether there are axes of several devices to be mapped over."""
    return any(self.mesh.shape[axis] > 1 for axis in self.automatic)


def plan(labels: Sequence[division.Labels], arrays) -> Plan:
  """Returns the Plan of arrays with these labels."""
  mesh, axes = explicit(labels, [jax.typeof(x) for x in arrays])
  return Plan(mesh_of(arrays) if mesh.empty else mesh, axes, naming.setting.value)


def explicit(labels: Sequence[division.Labels], types):
  """Returns the mesh of the types, and the mesh axes that divide each label in them."""
  mesh = next((a.sharding.mesh for a in types if not a.sharding.mesh.empty), None)
  if mesh is None:
    return types[0].sharding.mesh, {}
  shapes, specs = zip(*((a.shape, a.sharding.spec) for a in types))
  return mesh, division.chosen(labels, shapes, specs, mesh.shape)


def mapped(function: Callable, inputs, outputs, shapes, plan: Plan) -> Callable:
  """Wraps a function in `jax.shard_map`, so that each device runs it on its part.

  Args:
    function: takes and gives lists of arrays.
    inputs: the labels of each input.
    outputs: the labels of each output.
    shapes: (of the inputs, of the outputs).
    plan: the Plan, whose mesh is known.
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
