"""Rows that nobody sees: their NaN and infinities must not reach what is seen.

A weight of 0 does not keep them out of a sum of products. So each partial tile is
tested, on words of packed numbers. Where all are finite, and none is so large that a
product of it overflows, the tile is computed as it is. Else a loop over small parts
makes zeros of the rows that no score of the part counts.

Bundles of a partial step of 1,024 queries and 2,048 keys, causal, with heads of 128:
                                   v5e forward backward   v6e forward backward
  of it, the test                          128      138           127      137
  as each key tile begins, the test          -       30             -      200
A test of float32 sums took 690 of the 25,200 of the v5e backward step, copies of the
tested blocks 140; masks after the sums, in case those are not finite, 3,500.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import operands
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.subtile import Part, Plan

# Queries and keys of a part in the loop, at most. It is as much code as a part.
QUERIES, KEYS = 256, 256
# Rows of words that are folded at once, so that they do not wait for each other.
FOLDED = 32
# By the numbers in a word: the bits of their signs; all others, and what makes numbers
# from 2^40 on carry into their signs.
_SIGNS = {1: -(1 << 31), 2: 0x80008000 - (1 << 32)}
_CARRY = {
  1: (0x7FFFFFFF, (1 << 31) - (127 + 40 << 23)),
  2: (0x7FFF7FFF, ((1 << 15) - (127 + 40 << 7)) * 0x10001),
}


def choose(plan: Plan, when, test: Callable, quick: Callable, guarded: Callable):
  """Runs a masked step if `when`.

  Args:
    plan: of the kernel.
    when: whether there is a masked step.
    test: whether a number of its blocks is `strange`.
    quick: the step that takes the numbers as they are.
    guarded: the step that lets nothing unseen through, whatever they are.
  """
  if plan.seen is None:  # What is not seen is padding, zeros.
    pl.when(when)(quick)
    return

  @pl.when(when)
  def _():
    found = test()
    pl.when(jnp.logical_not(found))(quick)
    pl.when(found)(guarded)


def each(part: Part, function: Callable[[Part], None]) -> None:
  """Calls a function on small parts of the tile of `part`, one after another."""
  plan = part.plan
  sizes = _part(plan.block_q, QUERIES), _part(plan.block_k, KEYS)
  small = dataclasses.replace(plan, inner_q=sizes[0], inner_k=sizes[1])
  across = plan.block_q // sizes[0]

  def one(number, _):
    row = pl.multiple_of(jax.lax.rem(number, across) * sizes[0], sizes[0])
    column = pl.multiple_of(jax.lax.div(number, across) * sizes[1], sizes[1])
    function(dataclasses.replace(part, plan=small, row=row, column=column))

  jax.lax.fori_loop(0, across * (plan.block_k // sizes[1]), one, None)


def keys(part: Part, seen, *arrays) -> list[jax.Array]:
  """A part's rows of keys, or values, as zeros where it counts no score of theirs."""
  return _used(seen, arrays, down=part.plan.keys_down)


def queries(part: Part, seen, *arrays) -> list[jax.Array]:
  """A part's rows of queries, or cotangents, as `keys`."""
  return _used(seen, arrays, down=not part.plan.keys_down)


def _used(seen, arrays, down):
  """Rows that run down the sublanes of `seen`, or along its lanes."""
  some = jnp.where(seen, 1.0, 0.0).max(axis=int(down), keepdims=True)
  some = some if down else operands.spread(some)
  return [operands.used(array, some) for array in arrays]


def _part(block: int, size: int) -> int:
  """The largest whole number of lanes up to `size` that divides the block, or all."""
  if block % LANES:
    return block
  return max(p for p in range(LANES, size + 1, LANES) if block % p == 0)


def strange(*arrays, factor=None) -> jax.Array:
  """Whether blocks in fast memory have a NaN, an infinity or a number from 2^65 on.

  Those of `factor` have to be less than 2^40: its products with others are finite.
  """
  found: dict[int, jax.Array] = {}
  for array in arrays if factor is None else (*arrays, factor):
    large = _large(array, array is factor)
    width = large.shape[1]
    found[width] = found[width] | large if width in found else large
  flags = [jnp.max(jnp.where(words != 0, 1.0, 0.0)) for words in found.values()]
  return functools.reduce(jnp.maximum, flags) > 0


def _large(array, factor: bool) -> jax.Array:
  """Words that are not 0 where a number of theirs is so large."""
  packing, rows = 4 // array.dtype.itemsize, array.shape[0]
  step, whole = min(FOLDED * packing, rows), 8 * packing
  magnitude, carry = _CARRY[packing]
  found = jnp.int32(0)
  for first in range(0, rows, step):
    # Put together of whole registers: what is loaded at once comes in halves of them.
    own = [array[row : row + whole] for row in range(first, first + step, whole)]
    own = own[0] if len(own) == 1 else jnp.concatenate(own)
    words = pltpu.bitcast(own, jnp.int32)
    # Without their signs bits are ordered as numbers are. From 2^65 on an exponent has
    # its highest two bits, which is tested more cheaply.
    found |= (words & magnitude) + carry if factor else words & words << 1
  found = (found if factor else found << 1) & _SIGNS[packing]
  if rows > 1:
    return found
  lanes = (found[:, at : at + LANES] for at in range(0, found.shape[1], LANES))
  return functools.reduce(jnp.bitwise_or, lanes)
