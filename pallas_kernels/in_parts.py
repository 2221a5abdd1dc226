"""Sequential kernels in two passes, where batch and heads alone do not fill a GPU.

A state S that is carried from token to token, S <- keep S + added, makes a program go
through all chunks in sequence. Here the chunks are cut into P parts. The first pass
computes, in parallel, the state after each part but the last from a zero state; a scan
over these gives the state that each part starts from; the second pass computes all
parts in parallel. This is twice the work, in chains of 2 / P of the length.

Guy Blelloch. Prefix Sums and Their Applications. 1990.
"""

import jax
import jax.numpy as jnp

from attnjax.core import devices

# Multiprocessors, and the programs of four warps that each runs at a time. An A100 has
# 108 of them, an H100 132, a B200 148. One constant for all: a program compiled for
# another machine's GPU, or for a part of a GPU, equals one compiled there.
PROCESSORS, RESIDENT = 128, 4
# The least chunks of a part, and the least parts that make up for the second pass.
CHUNKS, LEAST = 8, 4
_UNROLL = 16


def number(programs: int, chunks: int) -> int:
  """Returns how many parts to cut the tokens into.

  Args:
    programs: of one part; if they fill the GPU, the result is 1.
    chunks: of the sequence.
  """
  if not 0 < programs < PROCESSORS:
    return 1
  parts = min(PROCESSORS * RESIDENT // programs, chunks // CHUNKS)
  return parts if parts >= LEAST else 1


def span(parts: int, chunks: int) -> int:
  """Returns the chunks of each part but the last, which has the remaining ones."""
  return -(-chunks // min(parts, chunks))


def starts(kept, ends, first):
  """Returns the states (parts, *B, ...) that the parts start from, in scan order.

  Args:
    kept: (parts - 1, *B), the factor by which each part but the last decays a state.
    ends: (parts - 1, *B, ...), the state after each of these parts from a zero state.
    first: (*B, ...), the state before all parts; None for zeros.
  """
  first = jnp.zeros_like(ends[0]) if first is None else first
  first = devices.vary_like(first.astype(ends.dtype), ends)
  kept = kept.reshape(*kept.shape, *[1] * (ends.ndim - kept.ndim))

  def step(state, part):
    keep, end = part
    state = keep * state + end
    return state, state

  # Without a loop they are one kernel.
  steps = min(len(ends), _UNROLL)
  _, later = jax.lax.scan(step, first, (kept, ends), unroll=steps)
  return jnp.concatenate([first[None], later])
