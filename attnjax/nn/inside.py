"""The weights and intermediate values of a stack, block by block without a scan."""

from typing import Any

import jax
from jaxtyping import Array

from attnjax.contract import context as contexts
from attnjax.contract.trace import Edit, Edits, Trace, edits
from attnjax.nn import running, stack_context, streams


def weights(stack: Any, x: Array, stats: Any, context: dict) -> list[Array]:
  """Returns the attention weights of every block, (B, N, T, S) each."""

  def look(block, x, index, own, context):
    seen = block.mixed(x, context)
    heard = block.heard(context.get("stream"))
    found = contexts.weights(block.mixer, seen, index=index, **context | heard)
    given = {"index": index, "stats": own, "train": False}
    return running.apply(block, x, **given, **context)[0], found

  return _in_turn(stack, look, x, stats, context)[1]


def trace(
  stack: Any,
  x: Array,
  edit: Edit | Edits | None,
  stats: Any,
  first: int,
  context: dict,
) -> Trace:
  """Returns the intermediate values of a stack; see `Stack.trace`."""
  hidden, changes = [], edits(edit)

  def look(block, x, index, own, context):
    hidden.append(x)
    given = {"index": index, "edit": changes.at(first + index), "stats": own}
    y, *parts = block.trace(x, **given, **context)
    return y, parts

  y, found = _in_turn(stack, look, x, stats, context)
  heads, mixed, attended, feeds = zip(*found)
  return Trace((*hidden, y), heads, mixed, y, attended, feeds)


def cut(tree: Any, *repeats: int) -> Any:
  """Returns repeats a to b - 1 of stacked leaves, or repeat a without its axis."""
  index = slice(*repeats) if len(repeats) == 2 else repeats[0]
  return jax.tree.map(lambda leaf: leaf[index], tree)


def _in_turn(stack, look, x, stats, context):
  """Returns (the last output, the results of `look` at each block)."""
  fixed = streams.hidden(stack, context.pop("stream", None))
  x, found = stack_context.blank(x, context), []
  embeddings, size = x, len(stack.blocks)
  for index, place, block, own in stack.each(stats):
    x, context, _ = stack.reduced(index, x, context)
    contexts_of = stack_context.of_blocks(stack.blocks, context)
    stream = streams.of_block(block, cut(fixed[place], index // size), embeddings)
    given = contexts_of[place] | ({} if stream is None else {"stream": stream})
    x, finding = look(block, x, index, own, given)
    found.append(finding)
  return x, found
