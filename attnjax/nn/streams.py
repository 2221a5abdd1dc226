"""Streams: hidden states beside the tokens, of which a mixer makes queries and keys.

A mixer with an attribute `reads` gets `stream=` in its call:

  "embeddings"  the input of the stack at the same tokens, (B, T, D), normalised by the
                block; its `step` gets it, too
  "fixed"       the hidden states, at the mixer's own layer, of one sequence that is no
                input of the model, (1, L, D); its `init_cache` gets it

The fixed sequence is an ordinary pass through the same blocks, in which its own hidden
states are the stream. The mixer's `fixed_stream(length, embedding)` makes the (1, L, D)
with which it begins, of the model's table of tokens if need be, and `fixed_source`
tells one sequence from another. It has no dropout, no padding and no documents.

Huiyin Xue et al. Deconstructing Attention. 2025. arXiv:2510.11602.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

READS = ("fixed", "embeddings")


def reads(block: Any) -> str:
  """Returns what the mixer of a block reads: one of READS, or ""."""
  return getattr(block.mixer, "reads", "")


def start(
  blocks: Sequence[Any], length: int, table: Callable[[], Float[Array, "V D"]]
) -> Float[Array, "1 L D"] | None:
  """Returns the embeddings of the fixed sequence; None if no mixer reads one.

  Args:
    blocks: of a stack.
    length: L, of the longest row that the model is called with.
    table: returns the embeddings of the model's tokens.

  Raises:
    ValueError: if two mixers want sequences that differ.
  """
  mixers = [block.mixer for block in blocks if reads(block) == "fixed"]
  if len({mixer.fixed_source for mixer in mixers}) > 1:
    raise ValueError(f"one fixed sequence, not {[m.fixed_source for m in mixers]}")
  return mixers[0].fixed_stream(length, table()) if mixers else None


def hidden(stack: Any, stream: Float[Array, "1 L D"] | None) -> tuple[Any, ...]:
  """Returns the fixed sequence before the blocks at each place of the pattern.

  They are stacked over the repeats, (R, 1, L, D); None where nothing reads them.

  Raises:
    ValueError: if a mixer reads a fixed sequence and the host has none.
    NotImplementedError: for a stack with batch norm, or that drops tokens.
  """
  readers = [reads(block) == "fixed" for block in stack.blocks]
  if not any(readers):
    return (None,) * len(readers)
  if stream is None:
    raise ValueError("a mixer reads a fixed sequence, which this host does not give")
  if stack.cuts or stack.init_stats():
    raise NotImplementedError("a fixed sequence with reducers or batch norm")

  def repeat(x, part):
    blocks, first = part
    kept = []
    for place, block in enumerate(blocks):
      kept.append(x if readers[place] else None)
      own = x if readers[place] else stream
      x = block(x, index=first + place, stream=own if reads(block) else None)
    return x, tuple(kept)

  return jax.lax.scan(repeat, stream, (tuple(stack.blocks), stack.starts()))[1]


def of_block(block: Any, fixed: Any, embeddings: Array) -> Array | None:
  """Returns the stream of a block: its own part of `hidden`, or the embeddings."""
  return {"fixed": fixed, "embeddings": embeddings}.get(reads(block))


def check(stack: Any, memory: Any) -> None:
  """Raises NotImplementedError where a stack cannot give its embeddings to a mixer."""
  if not any(reads(block) == "embeddings" for block in stack.blocks):
    return
  if memory is not None:
    raise NotImplementedError("a memory keeps no embeddings, which a mixer reads")
  if stack.cuts:
    raise NotImplementedError("a mixer reads embeddings, reducers drop tokens")
