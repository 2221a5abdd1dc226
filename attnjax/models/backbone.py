"""A published network, whole: any system of the form "backbone".

The mechanism is the system's slug. `size` is one of its SIZES: where the options of the
network begin, each of which can be set by itself.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from flax import nnx

from attnjax.contract import networks
from attnjax.nn.backbone import Classifier

FORMS = ("backbone",)
TAKES = "images"  # what its data sets hold
SIZES = ("channels", "classes")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"],), {}


def defaults(systems: Sequence[ModuleType], *, size: str = "mini") -> dict[str, Any]:
  """Returns the hyper-parameters of Model around a system, as a size has them.

  Raises:
    ValueError: for a system that is no published network, for several ones, and for an
      unknown size.
  """
  return networks.of_one_system(systems, "backbone", FORMS, size)


def Model(
  builds: Sequence[Any],
  *,
  channels: int,
  classes: int,
  size: str = "mini",
  rngs: nnx.Rngs,
  **options: Any,
) -> Classifier:
  """Builds the network: images (B, H, W, C) -> logits (B, classes) float32.

  Args:
    builds: a single Constructor, of the system that has the network.
    channels: of the images.
    classes: number of logits.
    size: one of the system's SIZES.
    rngs: for the parameters.
    **options: hyper-parameters of the system's Model, in place of the size's.
  """
  modules = [build.module for build in builds]
  given = defaults(modules, size=size) | options
  del given["size"]
  return builds[0](channels, classes, **given, rngs=rngs)
