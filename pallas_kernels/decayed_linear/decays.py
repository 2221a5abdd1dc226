"""Cumulative sums of log decays for kernels, whose differences are exact."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.recurrence import linear

LOG2E = 1.4426950408889634
# Bits of a float32 significand, and the most that a token adds to a sum.
_BITS = 24
_MOST = LOG2E * abs(linear.LOWEST["float32"])


def sums(log_decay: Float[Array, "#B T #N"], chunk: int) -> Float[Array, "#B #N 2 t"]:
  """Returns the sums of log2 decays from each chunk's start, as high and low parts.

  The weight of a pair of tokens is 2 to the difference of two sums. In a single float,
  small decays would lose their digits behind one token that resets the state. Here the
  high parts are multiples of a power of 2 that is large enough for them and their
  differences to be exact; the low part is the remainder. A sum is high + low.

  Args:
    log_decay: from `linear.each_token`, none below `linear.LOWEST`.
    chunk: tokens of a chunk; t is T, padded to whole chunks.
  """
  x = LOG2E * log_decay.astype(jnp.float32).swapaxes(1, 2)
  x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % chunk)))
  unit = 2.0 ** (math.ceil(math.log2(_MOST * chunk)) - _BITS)
  high = jnp.round(x / unit) * unit
  x = jnp.stack([high, x - high], axis=2)
  return x.reshape(*x.shape[:3], -1, chunk).cumsum(axis=-1).reshape(x.shape)
