"""Cheap powers of 2 for XLA's processor backend."""

import math

import jax
import jax.numpy as jnp

LOG2E = math.log2(math.e)
# 2^f for |f| <= 1/2 with a relative error of 1e-7, exactly 1 at 0.
_SERIES = (1.0, 0.6931469, 0.24022171, 0.05550713, 0.00967554, 0.00132765)
# Added to a number below 2^22 it leaves that number, rounded, in the lowest bits.
_ROUNDER = 1.5 * 2**23


def rounder():
  """What `power` takes: behind a barrier, lest XLA simplify the rounding away."""
  return jax.lax.optimization_barrier(jnp.float32(_ROUNDER))


def power(y, rounder):
  """2^y for y <= 64 to 2e-7, and 0 below the normal numbers; exact for float64.

  A polynomial on the fraction of y, whose whole part goes into the exponent's bits.
  """
  if y.dtype == jnp.float64:
    return jnp.exp2(y)
  lifted = y + rounder
  fraction = y - (lifted - rounder)
  series = jnp.float32(_SERIES[-1])
  for term in _SERIES[-2::-1]:
    series = series * fraction + jnp.float32(term)
  cast = jax.lax.bitcast_convert_type
  bits = cast(series, jnp.int32) + (cast(lifted, jnp.int32) << 23)
  return jnp.where(y < -126.0, 0.0, cast(bits, jnp.float32))


def row_max(x, pieces=8):
  """max(x, axis=-1): XLA's own reduction is not vectorized for a maximum."""

  def larger(a, b):
    return jnp.where(a > b, a, b)

  parts = jnp.split(x, pieces, axis=-1) if x.shape[-1] % pieces == 0 else [x]
  while len(parts) > 1:
    parts = [larger(a, b) for a, b in zip(parts[::2], parts[1::2])]
  return parts[0].max(axis=-1)
