"""One repeat of a stack's pattern of blocks, for a scan over the depth."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from attnjax.nn import running, stack_context, streams
from attnjax.nn.remat import checkpointed


def repeat(
  stack: Any, context: dict, key: Array | None, train: bool, embeddings: Array
) -> Callable[[Array, Any], tuple[Array, Any]]:
  """Returns the function of one repeat of the pattern: tokens and parts to both.

  Args:
    stack: a Stack.
    context: of the tokens that its blocks see.
    key: turns dropout on.
    train: whether batch norm measures the batch.
    embeddings: the input of the first block.
  """
  contexts = stack_context.of_blocks(stack.blocks, context)

  def one(x, part):
    blocks, held, start, kept, fixed = part
    new, after = [], []
    for place, (block, own, old) in enumerate(zip(blocks, held, kept)):
      index, context = start + place, contexts[place]
      draw = None if key is None else jax.random.fold_in(key, index)
      given = {"index": index, "key": draw, "stats": own, "train": train}
      given["stream"] = streams.of_block(block, fixed[place], embeddings)
      after.append(stack_context.remembered(old, x, context))
      x, own = running.apply(block, x, memory=old, **given, **context)
      new.append(own)
    return x, (tuple(new), tuple(after))

  return checkpointed(one, stack.remat)
