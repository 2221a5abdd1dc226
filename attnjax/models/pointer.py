"""A network that answers points by their labels: any system of the form "pointer".

The mechanism is the system's slug. `size` is one of its SIZES: where the options of the
network begin, each of which can be set by itself. Beside the logits there is the answer
that the network finds by itself, which metrics of whole answers read.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnjax.contract import networks

FORMS = ("pointer",)
TAKES = "points"  # what its data sets hold
SIZES = ("inputs", "symbols")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["points"], batch["labels"]), {"valid": batch["valid"]}


def defaults(systems: Sequence[ModuleType], *, size: str = "mini") -> dict[str, Any]:
  """Returns the hyper-parameters of Model around a system, as a size has them.

  Raises:
    ValueError: for a system that is no such network, for several ones, and for an
      unknown size.
  """
  own = networks.of_one_system(systems, "pointer", FORMS, size)
  own.pop("end_symbol", None)  # every answer of the data sets ends
  return own | {"beams": 1, "constraint": "none"}


class Model(nnx.Module):
  """points (B, S, I), labels (B, T) -> {"logits" (B, T, V), "answer" (B, T)}.

  The logits are those after the true labels, the answer has labels of its own.
  """

  def __init__(
    self,
    builds: Sequence[Any],
    *,
    inputs: int,
    symbols: int,
    size: str = "mini",
    beams: int = 1,  # answers that are kept at each step
    constraint: str = "none",  # which labels may follow in an answer
    rngs: nnx.Rngs,
    **options: Any,
  ):
    """Builds the network of a single Constructor, of the system that has it."""
    given = defaults([build.module for build in builds], size=size) | options
    for name in ("size", "beams", "constraint"):
      del given[name]
    self.network = builds[0](inputs, symbols, **given, rngs=rngs)
    self.beams, self.constraint = beams, constraint

  def __call__(
    self,
    points: Float[Array, "B S I"],
    labels: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B S"] | None = None,
    key: Key[Array, ""] | None = None,
  ) -> dict[str, Array]:
    """Returns the logits after true labels, and an answer of T labels at most.

    Args:
      points: in any order, which the network may depend on.
      labels: true ones.
      valid: True at the real points.
      key: not read, since nothing is dropped.
    """
    del key
    answer, _ = self.network.search(
      jax.lax.stop_gradient(points),
      steps=labels.shape[1],
      width=self.beams,
      constraint=self.constraint,
      valid=valid,
    )
    logits = self.network(points, labels, valid=valid)
    return {"logits": logits, "answer": answer}
