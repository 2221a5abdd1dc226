"""The sizes of a model, layer by layer: heads, parameters of modules, and FLOPs.

It serves every model with `trace` and a `stack` of blocks, or `blocks`, with a `mixer`
each. Parameters are counted in the arrays, FLOPs in the jaxpr's matrix products.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from attnjax import sharding
from experiments.training import cost


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a block, or of a whole model.

  Attributes:
    name: "block 3", or "model".
    heads: heads of its queries, a model's summed; 0 where nothing is mixed.
    modules: number of parameters of each part, by its name.
    flops: of the matrix products for one row.
  """

  name: str
  heads: int
  modules: dict[str, int]
  flops: int

  @property
  def parameters(self) -> int:
    """Returns the number of all parameters."""
    return sum(self.modules.values())

  def record(self) -> dict[str, Any]:
    """Returns the sizes for JSON."""
    return dataclasses.asdict(self) | {"parameters": self.parameters}


def blocks(model: Any) -> Iterator[Any]:
  """Yields the blocks of a model in their order, without the axis of a stack.

  Raises:
    ValueError: if it has neither `stack` nor `blocks`.
  """
  if hasattr(model, "stack"):
    yield from (block for _, _, block, _ in model.stack.each())
  elif hasattr(model, "blocks"):
    yield from model.blocks
  else:
    raise ValueError(f"{type(model).__name__} has no stack of blocks and no blocks")


def of(model: Any, *inputs: Any) -> list[Sizes]:
  """Returns the sizes of each block, and last those of the whole model.

  Args:
    model: see the module.
    *inputs: one row of the model's inputs, arrays or their shapes.

  Raises:
    ValueError: if the model has no blocks, or no `trace`.
  """
  if not hasattr(model, "trace"):
    raise ValueError(f"{type(model).__name__} has no trace of its heads")
  trace = jax.eval_shape(lambda model, *x: model.trace(*x), model, *inputs)
  found = []
  for index, block in enumerate(jax.eval_shape(lambda m: list(blocks(m)), model)):

    def run(block, x, index=index):
      return block(x, index=index)

    heads = _heads(block.mixer, trace.heads[index])
    flops = cost.flops(jax.make_jaxpr(run)(block, trace.hidden[index]).jaxpr)
    found.append(Sizes(f"block {index}", heads, modules(block), flops))
  return [*found, whole(model, *inputs, heads=sum(one.heads for one in found))]


def whole(model: Any, *inputs: Any, heads: int = 0) -> Sizes:
  """Returns the sizes of a whole model, as `of` does.

  Args:
    model: with or without blocks.
    *inputs: as in `of`.
    heads: of all blocks; 0 if they are not counted.
  """
  jaxpr = jax.make_jaxpr(lambda model, *x: model(*x))(model, *inputs).jaxpr
  return Sizes("model", heads, modules(model), cost.flops(jaxpr))


def modules(tree: Any) -> dict[str, int]:
  """Returns the number of parameters of each part of a block or a model.

  The parts of mixers are named "mixer/...", others of a model's blocks "blocks/...".
  """
  found: dict[str, int] = collections.defaultdict(int)
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    found[_part(sharding.path_name(path).split("/"))] += leaf.size
  return dict(found)


def _part(names: list[str]) -> str:
  if "mixer" in names:
    return "/".join(names[names.index("mixer") :][:2])
  if "blocks" in names:
    return f"blocks/{names[names.index('blocks') + 2]}"
  return names[0]


def _heads(mixer: Any, heads: Any) -> int:
  """Returns the heads that a layer has, of which it may compute one alone."""
  own = getattr(mixer, "heads", None)
  if isinstance(own, int):
    return own
  return 0 if heads is None or heads.q is None else heads.q.shape[-2]
