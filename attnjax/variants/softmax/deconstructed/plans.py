"""The paper's plans: which layers of a model keep standard attention, 1-based there."""

from typing import Any

import jax
from flax import nnx

from attnjax.contract import check_known
from attnjax.variants.softmax.deconstructed.layer import Layer

PLANS = (
  "uniform",
  "even",
  "odd",
  "top",
  "middle",
  "bottom",
  "quarter",
  "first",
  "last",
  "bilateral",
)


def standard_layers(plan: str, layers: int) -> tuple[int, ...]:
  """Returns the layers that keep standard attention, counted from 1 as in the paper.

  Args:
    plan: one of PLANS; "quarter" is the paper's 25 %, every fourth layer. "top",
      "middle" and "bottom" say where the simple layers are.
    layers: of the model.

  Raises:
    ValueError: for an unknown plan, and for layers that its halves, quarters or pairs
      do not divide.
  """
  check_known("plan", plan, PLANS)
  parts = {"even": 2, "odd": 2, "top": 2, "bottom": 2, "middle": 4, "quarter": 4}
  part = parts.get(plan, 1)
  if layers < 1 or layers % part:
    raise ValueError(f"plan {plan!r} of {layers} layers: it takes a multiple of {part}")
  n, every = layers, range(1, layers + 1)
  kept = {
    "uniform": (),
    "even": [i for i in every if i % 2 == 0],
    "odd": [i for i in every if i % 2],
    "top": range(1, n // 2 + 1),
    "middle": [*range(1, n // 4 + 1), *range(3 * n // 4 + 1, n + 1)],
    "bottom": range(n // 2 + 1, n + 1),
    "quarter": [i for i in every if i % 4 == 0],
    "first": [1],
    "last": [n],
    "bilateral": sorted({1, n}),
  }
  return tuple(kept[plan])


def pattern(
  plan: str,
  layers: int,
  *,
  simple: str = "deconstructed",
  standard: str = "dot_product",
) -> str:
  """Returns a plan as the pattern of mechanisms that a config takes.

    python -m experiments.run --config configs/lm.py:deconstructed,dot_product

  is "even". The pattern is as short as it can be, and repeats over the layers.
  """
  kept = standard_layers(plan, layers)
  slugs = [standard if i in kept else simple for i in range(1, layers + 1)]
  for size in range(1, layers + 1):
    if layers % size == 0 and slugs == slugs[:size] * (layers // size):
      return ",".join(slugs[:size])
  raise AssertionError("a pattern is its own repeat")


def skip(model: Any) -> Any:
  """Returns a model without its simple layers, each with its feed-forward part.

  The paper asks with it whether a trained hybrid needs them.

  Args:
    model: with a `stack`, see `attnjax.nn.stack`; it is not changed.

  Raises:
    ValueError: if no layer would be left.
  """
  kept = [block for block in model.stack.blocks if not _simple(block.mixer)]
  if not kept:
    raise ValueError("skip: every layer is a simple one")
  rest = jax.tree.map(lambda leaf: leaf, model)
  repeats = model.stack.depth // len(model.stack.blocks)
  rest.stack.blocks = nnx.List([b for b in rest.stack.blocks if not _simple(b.mixer)])
  rest.stack.depth = repeats * len(kept)
  return rest


def _simple(mixer):
  return isinstance(mixer, Layer) and mixer.kind != "standard"
