"""A step of decoding through stacked blocks, their caches updated in place."""

from typing import Any

import jax
from jaxtyping import Array

from attnjax.core.cache import of_layer, without_keys
from attnjax.nn import streams


def through(
  stack: Any, x: Array, cache: Any, shared: Any, context: dict[str, Any]
) -> tuple[Array, Any, Any]:
  """Returns (x, cache, shared) after all blocks of a stack.

  The loop over the blocks carries the keys and values of all of them: XLA writes the
  new tokens in their places, if the caller of `jax.jit` donates the cache.

  Args:
    stack: of blocks, `attnjax.nn.stack.Stack`.
    x: (B, T, D), the next T tokens.
    cache: of `Stack.init_cache`, or of the step before.
    shared: arrays that go from block to block, see `Block.step`.
    context: goes to every mixer.
  """
  embeddings, pattern = x, len(stack.blocks)

  def repeat(carried, part):
    (x, shared, held), (blocks, rest, start) = carried, part
    caches, new = of_layer(held, rest, start // pattern), []
    for place, (block, old) in enumerate(zip(blocks, caches)):
      own = streams.of_block(block, None, embeddings)
      x, old, shared = block.step(
        x, old, index=start + place, shared=shared, stream=own, **context
      )
      new.append(old)
    held, rest = without_keys(tuple(new))
    return (x, shared, held), rest

  held, rest = without_keys(cache)
  parts = tuple(stack.blocks), rest, stack.starts()
  (x, shared, held), rest = jax.lax.scan(repeat, (x, shared, held), parts)
  return x, of_layer(held, rest, None), shared
