"""The integers of masks: how they may be given, and arithmetic that cannot overflow.

Kernels compare int32. A number that is no position, such as the end of a window, may
be larger: it is clipped, which changes no comparison with a position.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LEAST, MOST = -(2**31), 2**31 - 1


def integers(name: str, given: Any) -> Any:
  """Returns an int or an array of integers, from numbers, (nested) lists and arrays.

  Raises:
    ValueError: if a number is not an integer.
  """
  if isinstance(given, int):
    return given
  array = asarray(given)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise ValueError(f"{name} {shown(given)}; it must be an integer, or an array")
  return (
    int(array)
    if isinstance(array, np.ndarray | np.integer) and not array.ndim
    else array
  )


def asarray(given: Any) -> Any:
  """Returns the given array, or makes one, of NumPy if all numbers are known."""
  if hasattr(given, "dtype"):
    return given
  traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(given))
  return jnp.asarray(given) if traced else np.asarray(given)


def positive(name: str, value: Any) -> None:
  """Raises ValueError if a number is not an integer of 1 or more."""
  if not isinstance(value, int | np.integer) or value < 1:
    raise ValueError(f"{name} = {value}; it must be an integer, 1 or more")


def shown(given: Any) -> str:
  """Returns the description of a value in an error; an array has its type and shape."""
  if hasattr(given, "shape"):
    return f"has the type {given.dtype} and the shape {given.shape}"
  return f"= {given!r}"


def clipped(number: Any, least: int = LEAST) -> Any:
  """Clips an int, or an array to int32, to the range from `least` to MOST."""
  if isinstance(number, int):
    return max(least, min(MOST, number))
  xp: Any = jnp if isinstance(number, jax.Array) else np
  if np.iinfo(number.dtype).max > MOST:
    number = xp.minimum(number, np.asarray(MOST, number.dtype))
  if np.iinfo(number.dtype).min < least:
    number = xp.maximum(number, np.asarray(least, number.dtype))
  return number.astype(np.int32)


def outside(positions: Any) -> Any:
  """Returns whether an integer exceeds int32: a bool, or an array for JAX arrays."""
  if isinstance(positions, int):
    return not LEAST <= positions <= MOST
  limits = np.iinfo(positions.dtype)
  if not positions.size or (limits.min >= LEAST and limits.max <= MOST):
    return False
  if isinstance(positions, jax.Array):
    most = jnp.asarray(min(MOST, limits.max), positions.dtype)
    least = jnp.asarray(max(LEAST, limits.min), positions.dtype)
    return ((positions < least) | (positions > most)).any()
  return not LEAST <= int(positions.min()) <= int(positions.max()) <= MOST


def known(name: str, positions: Any) -> Any:
  """Checks and returns positions, as int32 if they are an array.

  Raises:
    ValueError: if they are known and do not fit.
  """
  wrong = outside(positions)
  if wrong is True:
    given = f"= {positions}"
    if not isinstance(positions, int):
      given = f"has numbers from {positions.min()} to {positions.max()}"
    raise ValueError(f"{name} {given}; positions must lie in -2^31 ... 2^31 - 1")
  return clipped(positions)


def plus(x: Any, number: Any) -> Any:
  """Returns x + number in int32, saturated at the limits of the type."""
  if isinstance(number, int):
    if not number:
      return x
    if number > 0:
      return jnp.minimum(x, MOST - number) + number
    return jnp.maximum(x, LEAST - number) + number
  lowest = LEAST - jnp.minimum(number, 0)
  return jnp.clip(x, lowest, MOST - jnp.maximum(number, 0)) + number


def at_most(k: Any, x: Any, number: Any) -> Any:
  """Returns whether k <= x + number, where the sum may be no int32."""
  near = k <= plus(x, number)
  if isinstance(number, int) and number >= 0:
    return near
  # The sum stays at the least integer, but no k is less.
  return near & (x >= LEAST - jnp.minimum(number, 0))


def div(x: Any, number: int) -> Any:
  """Divides x >= 0, rounding down, without the correction for negative x."""
  return x if number == 1 else jax.lax.div(*_same(x, number))


def rem(x: Any, number: int) -> Any:
  """Returns x mod number for x >= 0."""
  return jnp.zeros_like(x) if number == 1 else jax.lax.rem(*_same(x, number))


def floored(x: Any, number: int) -> Any:
  """Divides any x, rounding down; -1 - x never overflows."""
  return jnp.where(x < 0, -1 - div(-1 - x, number), div(x, number))


def modulo(x: Any, number: int) -> Any:
  """Returns x mod number, in 0, ..., number - 1, for any x."""
  return jnp.where(x < 0, number - 1 - rem(-1 - x, number), rem(x, number))


def _same(x, number):
  return x, jnp.full_like(x, number)
