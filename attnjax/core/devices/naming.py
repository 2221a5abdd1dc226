"""Axes of a mesh that divide batches and heads, where only their names can tell.

The division of an array over Auto axes is known only when XLA has propagated shardings
through the program. A compiler that does not ask then how to divide a kernel, as that
of TPUs (jax-ml/jax#38196), needs to be told before.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from attnjax.core.devices import division

# Parts of the names that model codebases give their axes.
HEADS = ("model", "tensor", "heads", "tp", "mp")
NEITHER = ("sequence", "seq", "context", "sp", "cp", "stage", "pipeline", "pipe", "pp")
BATCH = ("data", "fsdp", "batch", "replica", "dcn", "expert", "dp", "ep")
_SHORT = 3


class Named(NamedTuple):
  """The names of the axes of batches and of heads, the slowest first."""

  batch: tuple[str, ...]
  heads: tuple[str, ...]


setting = jax.make_user_context(None)


def chosen(
  labels: Sequence[division.Labels], shapes, mesh, given, names: Named | None
) -> division.Axes:
  """Returns the mesh axes of each label: the given ones, and others by their names.

  Args:
    labels: of each array.
    shapes: of each array.
    mesh: an abstract mesh, whose Auto axes alone are chosen by name.
    given: the axes that are known.
    names: the axes of batches and of heads, if the user has named them.
  """
  every = division.sizes(labels, shapes)
  # Explicit axes are left out: the types say what they divide.
  free = [a for a in mesh.auto_axes if mesh.shape[a] > 1]
  names = by_name(free) if names is None else names
  axes = dict(given)
  for label in ("heads", "batch", *(name for name in every if name.startswith("map"))):
    if label in axes or label not in every:
      continue
    own = names.heads if label == "heads" else names.batch
    fitting = division.fitting(
      tuple(a for a in own if a in free), every[label], mesh.shape
    )
    if fitting:
      axes[label] = fitting
      free = [a for a in free if a not in fitting]
  return axes


def by_name(axes: Sequence[str]) -> Named:
  """Classifies axes by their names; unknown ones divide batches, with a warning."""
  found: Mapping[str, list[str]] = {"batch": [], "heads": []}
  unknown = []
  for axis in axes:
    if _is(axis, HEADS):
      found["heads"].append(axis)
    elif not _is(axis, NEITHER):
      found["batch"].append(axis)
      unknown += [] if _is(axis, BATCH) else [axis]
  if unknown:
    warnings.warn(
      f"mesh axes {unknown} divide batches in a fused kernel, since their names say"
      " nothing else; attnjax.sharding.mesh_axes(batch=..., heads=...) says what"
      " they divide",
      stacklevel=2,
    )
  return Named(tuple(found["batch"]), tuple(found["heads"]))


def _is(axis, names: Sequence[str]) -> bool:
  """Returns whether an axis's name holds one of the names, a short one as a word."""
  words = str(axis).lower().split("_")
  return any(
    name in words or (len(name) >= _SHORT and name in str(axis).lower())
    for name in names
  )
