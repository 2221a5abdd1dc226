# pyrefly: ignore-errors
# Triton's language is typed by its own compiler.
"""Elementwise functions of JAX that Triton's language lacks, in float32 precision."""

import triton
import triton.language as tl

__all__ = ["expm1", "log1p", "round_away", "round_even", "tanh"]


@triton.jit
def expm1(x):
  """Computes exp(x) - 1, by its series where the difference would lose digits."""
  near = x * (1 + x * (0.5 + x * (0.16666667 + x * (0.041666667 + x * 0.008333334))))
  return tl.where(tl.abs(x) < 0.1, near, tl.exp(x) - 1)


@triton.jit
def log1p(x):
  """Computes log(1 + x) with Kahan's correction for the rounding of 1 + x."""
  y = 1 + x
  rest = y - 1
  corrected = tl.log(y) * (x / tl.where(rest == 0, 1.0, rest))
  return tl.where(rest == 0, x, tl.where(tl.abs(y) < float("inf"), corrected, y))


@triton.jit
def round_away(x):
  """Rounds to the nearest integer, and halves away from 0."""
  up = tl.floor(tl.abs(x) + 0.5)
  return tl.where(x < 0, -up, up)


@triton.jit
def round_even(x):
  """Rounds to the nearest integer, and halves to the even one."""
  up = tl.floor(x + 0.5)
  return tl.where((up - x == 0.5) & (up != 2 * tl.floor(up * 0.5)), up - 1, up)


@triton.jit
def tanh(x):
  """Computes tanh by exp2, and by its series near 0, where digits would be lost."""
  e = tl.exp2(-2.885390082 * tl.abs(x))
  far = (1 - e) / (1 + e)
  y = x * x
  series = 0.13333334 + y * (-0.05396825 + y * (0.021869488 + y * -0.008863236))
  near = x + x * y * (-0.33333334 + y * series)
  return tl.where(y < 0.09, near, tl.where(x < 0, -far, far))
