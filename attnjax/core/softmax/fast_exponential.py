"""Cheap exponentials and row maxima for XLA:CPU."""

import math

import jax
import jax.numpy as jnp

LN2 = math.log(2.0)
LOG2E = 1 / LN2
# e^r for |r| <= ln(2) / 2 with a relative error of 1e-7, exactly 1 at 0.
_SERIES = tuple(
  term * LOG2E**power
  for power, term in enumerate(
    (1.0, 0.6931469, 0.24022171, 0.05550713, 0.00967554, 0.00132765)
  )
)
# Added to a number below 2^22 it leaves that number, rounded, in the lowest bits.
_ROUNDER = 1.5 * 2**23
# Below it e^y is no normal number.
_LEAST = -126 * LN2


def rounder():
  """Returns the constant of `exponential`, which XLA must not simplify away."""
  return jax.lax.optimization_barrier(jnp.float32(_ROUNDER))


def exponential(y, rounder):
  """Computes e^y for y <= 44 to 2e-7, 0 below the normal numbers, NaN for NaN.

  A polynomial evaluates the remainder of y by ln(2); the multiple of ln(2) goes into
  the exponent's bits. float64 is exact.
  """
  if y.dtype == jnp.float64:
    return jnp.exp(y)
  lifted = y * jnp.float32(LOG2E) + rounder
  rest = y - (lifted - rounder) * jnp.float32(LN2)
  series = jnp.float32(_SERIES[-1])
  for term in _SERIES[-2::-1]:
    series = series * rest + jnp.float32(term)
  cast = jax.lax.bitcast_convert_type
  bits = cast(series, jnp.int32) + (cast(lifted, jnp.int32) << 23)
  return jnp.where(y < _LEAST, 0.0, cast(bits, jnp.float32))


def row_max(x, pieces=8):
  """Computes max(x, axis=-1), vectorized as XLA's own reduction by a maximum is not."""

  def larger(a, b):
    return jnp.where((a > b) | (a != a), a, b)

  parts = jnp.split(x, pieces, axis=-1) if x.shape[-1] % pieces == 0 else [x]
  while len(parts) > 1:
    parts = [larger(a, b) for a, b in zip(parts[::2], parts[1::2])]
  return parts[0].max(axis=-1)
