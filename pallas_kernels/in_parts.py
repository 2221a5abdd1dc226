"""Sequential kernels in two passes, where batch and heads alone do not fill a GPU.

A state S that goes from token to token, S <- keep S + added, makes a program go through
all chunks in a row. They are cut into P parts: what all but the last end with, had they
started from nothing, is found at the same time; it says what each part starts from, and
then all of them go at the same time, as they would have in a row. Twice the work, in
chains of 2 / P of the length.

Guy Blelloch. Prefix Sums and Their Applications. 1990.
"""

import jax
import jax.numpy as jnp

from attnjax.core import devices

# Multiprocessors, and the programs of four warps that each runs at a time. An A100 has
# 108 of them, an H100 132, a B200 148. One number for all: a program that is made for
# another machine's GPU, or for a part of one, is the same as one made there.
PROCESSORS, RESIDENT = 128, 4
# The least chunks of a part, and the least parts that make up for the second pass.
CHUNKS, LEAST = 8, 4
_UNROLL = 16


def number(programs: int, chunks: int) -> int:
  """How many parts to cut the tokens into.

  Args:
    programs: of one part; where there are enough, 1 is the answer.
    chunks: that follow each other.
  """
  if not 0 < programs < PROCESSORS:
    return 1
  parts = min(PROCESSORS * RESIDENT // programs, chunks // CHUNKS)
  return parts if parts >= LEAST else 1


def span(parts: int, chunks: int) -> int:
  """The chunks of each part but the last, which has those that are left."""
  return -(-chunks // min(parts, chunks))


def starts(kept, ends, first):
  """(parts, *B, ...): the states that parts start from, in the order they are passed.

  Args:
    kept: (parts - 1, *B), what each part but the last keeps of the state before it.
    ends: (parts - 1, *B, ...), its state after it if there was none before.
    first: (*B, ...), the state before them all; None for zeros.
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
