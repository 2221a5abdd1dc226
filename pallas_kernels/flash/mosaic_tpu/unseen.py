"""Guards that keep NaN and infinities in unseen rows out of the results.

A weight of 0 does not keep them out of a sum of products. So each partial tile is
tested, on words of packed elements. Where all are finite, and none is so large that its
products overflow, the tile is computed as it is. Else a loop over small parts zeroes
the rows for which no score of the part counts.

Bundles of a partial step of 1,024 queries and 2,048 keys, causal, with heads of 128:
                                   v5e forward backward   v6e forward backward
  test in each step                        128      138           127      137
  test as each key tile begins               -       30             -      200
Alternatives, of the 25,200 bundles of the v5e backward step: testing float32 sums took
690, copies of the tested blocks 140, and masks after the sums 3,500.
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

# Most queries and keys of a part in the loop, whose code is as long as one part's.
QUERIES, KEYS = 256, 256
# Rows of words that are folded at once, so that they do not wait for each other.
FOLDED = 32
# By elements in a word: their sign bits; and (all other bits, the addend that makes
# elements of at least 2^40 carry into their sign bits).
_SIGNS = {1: -(1 << 31), 2: 0x80008000 - (1 << 32)}
_CARRY = {
  1: (0x7FFFFFFF, (1 << 31) - (127 + 40 << 23)),
  2: (0x7FFF7FFF, ((1 << 15) - (127 + 40 << 7)) * 0x10001),
}


def choose(plan: Plan, when, test: Callable, quick: Callable, guarded: Callable):
  """Runs a masked step if `when`, guarded if `test` finds strange elements.

  Args:
    plan: the kernel's static parameters.
    when: whether there is a masked step.
    test: returns whether an element of the step's blocks is `strange`.
    quick: the step that takes the elements as they are.
    guarded: the step that zeroes unseen rows, whatever they hold.
  """
  if plan.seen is None:  # Only padding, which is zeros, is unseen.
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
  """Zeroes a part's rows of keys, or of values, that have no score that counts."""
  return _used(seen, arrays, down=part.plan.keys_down)


def queries(part: Part, seen, *arrays) -> list[jax.Array]:
  """Zeroes a part's rows of queries, or of cotangents, as `keys` does."""
  return _used(seen, arrays, down=not part.plan.keys_down)


def _used(seen, arrays, down):
  """Zeroes rows for which a row (if `down`) or column of `seen` is all False."""
  some = jnp.where(seen, 1.0, 0.0).max(axis=int(down), keepdims=True)
  some = some if down else operands.spread(some)
  return [operands.used(array, some) for array in arrays]


def _part(block: int, size: int) -> int:
  """Returns the greatest multiple of LANES <= `size` that divides block, or block."""
  if block % LANES:
    return block
  return max(p for p in range(LANES, size + 1, LANES) if block % p == 0)


def strange(*arrays, factor=None) -> jax.Array:
  """Returns whether blocks hold a NaN, an infinity or a magnitude of 2^65 or more.

  For `factor` the limit is 2^40, so that its products with the others are finite.
  """
  found: dict[int, jax.Array] = {}
  for array in arrays if factor is None else (*arrays, factor):
    large = _large(array, array is factor)
    width = large.shape[1]
    found[width] = found[width] | large if width in found else large
  flags = [jnp.max(jnp.where(words != 0, 1.0, 0.0)) for words in found.values()]
  return functools.reduce(jnp.maximum, flags) > 0


def _large(array, factor: bool) -> jax.Array:
  """Returns words that are nonzero where one of their elements is too large."""
  packing, rows = 4 // array.dtype.itemsize, array.shape[0]
  step, whole = min(FOLDED * packing, rows), 8 * packing
  magnitude, carry = _CARRY[packing]
  found = jnp.int32(0)
  for first in range(0, rows, step):
    # Concatenated from whole registers: a single load would come in half registers.
    own = [array[row : row + whole] for row in range(first, first + step, whole)]
    own = own[0] if len(own) == 1 else jnp.concatenate(own)
    words = pltpu.bitcast(own, jnp.int32)
    # Without the sign, bits are ordered as magnitudes are. From 2^65 on the exponent's
    # two highest bits are set, which is cheaper to test.
    found |= (words & magnitude) + carry if factor else words & words << 1
  found = (found if factor else found << 1) & _SIGNS[packing]
  if rows > 1:
    return found
  lanes = (found[:, at : at + LANES] for at in range(0, found.shape[1], LANES))
  return functools.reduce(jnp.bitwise_or, lanes)
