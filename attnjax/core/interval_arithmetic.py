"""Bounds of a scalar function on a whole block, by interval arithmetic on its jaxpr.

The least and the greatest value of each argument on a block give bounds of the result
there. Such bounds of a mask's element test tell which blocks are empty or full without
testing their elements; bounds that are too wide cost time, never correctness.

Ramon E. Moore. Interval Analysis. 1966.

Values are pairs (low, high) of arrays; for a boolean, low is "true everywhere" and
high is "true somewhere", as 0 and 1.
"""

from typing import Any

import numpy as np
from jax.extend import core as jex

_EXACT = ("floor", "ceil", "sign")
_ROUNDED = ("exp", "exp2", "expm1", "tanh", "cbrt")
_SAME = ("copy", "copy_p", "stop_gradient", "broadcast_in_dim", "reshape", "squeeze")
_SLACK = 2.0**-20  # more than the rounding of float32, and of a device's functions


def bounds(closed, arguments, xp: Any) -> tuple[Any, Any]:
  """Returns the (low, high) of a flat jaxpr's result.

  Args:
    closed: a jaxpr of scalars as `attnjax.core.scalar_functions.Elementwise` has it.
    arguments: a pair (low, high) of arrays for each argument.
    xp: the module of the arrays, numpy or jax.numpy.
  """
  values = {id(v): a for v, a in zip(closed.jaxpr.invars, arguments, strict=True)}

  def read(atom):
    if isinstance(atom, jex.Literal):
      number = np.asarray(atom.val)
      if np.issubdtype(number.dtype, np.unsignedinteger):
        return _anything(number.dtype, [], xp)
      value = xp.asarray(number.astype(_wide(number.dtype, xp)))
      return value, value
    return values[id(atom)]

  for equation in closed.jaxpr.eqns:
    given = [read(a) for a in equation.invars]
    values[id(equation.outvars[0])] = _bound(equation, given, xp)
  return read(closed.jaxpr.outvars[0])


def _wide(dtype, xp):
  if np.issubdtype(dtype, np.bool_):
    return np.int32
  return np.int64 if xp is np and np.issubdtype(dtype, np.integer) else dtype


def _bound(equation, given: Any, xp: Any):
  name = equation.primitive.name
  out = equation.outvars[0].aval.dtype
  if np.issubdtype(out, np.unsignedinteger):  # arithmetic that wraps around
    return _anything(out, given, xp)
  kinds = {v.aval.dtype for v in equation.invars}
  if any(np.issubdtype(kind, np.unsignedinteger) for kind in kinds):
    return _anything(out, given, xp)
  integral = all(np.issubdtype(kind, np.integer) for kind in kinds)
  logical = all(v.aval.dtype == bool for v in equation.invars)
  if name in _SAME:
    return given[0]
  if name in _EXACT:
    return tuple(getattr(xp, name)(end) for end in given[0])
  if name in _ROUNDED:
    low, high = (getattr(xp, name)(end) for end in given[0])
    return low - xp.abs(low) * _SLACK, high + xp.abs(high) * _SLACK
  if name in ("lt", "le", "gt", "ge", "eq", "ne"):
    return _comparison(name, given[0], given[1], xp)
  if name in ("and", "or", "not") and logical:
    return _logical(name, given, xp)
  if name == "convert_element_type":
    return _converted(equation, given[0], xp)
  if name == "select_n" and len(given) == 3 and equation.invars[0].aval.dtype == bool:
    return _selected(given, xp)
  if name in ("div", "rem") and integral:
    a, b = given
    return (_divided if name == "div" else _remainder)(a, b, out, xp)
  if name in _ARITHMETIC and not logical:
    return _arithmetic(name, given, out, xp)
  return _anything(out, given, xp)


def _comparison(name, a, b, xp):
  if name in ("gt", "ge"):
    return _comparison({"gt": "lt", "ge": "le"}[name], b, a, xp)
  if name == "ne":
    always, ever = _comparison("eq", a, b, xp)
    return 1 - ever, 1 - always
  (al, ah), (bl, bh) = a, b
  if name == "lt":
    always, ever = ah < bl, al < bh
  elif name == "le":
    always, ever = ah <= bl, al <= bh
  else:
    always = (al == bh) & (ah == bl) & (al == ah)
    ever = (al <= bh) & (bl <= ah)
  return xp.asarray(always, np.int32), xp.asarray(ever, np.int32)


def _logical(name, given, xp):
  if name == "not":
    return 1 - given[0][1], 1 - given[0][0]
  function = xp.minimum if name == "and" else xp.maximum
  (al, ah), (bl, bh) = given
  return function(al, bl), function(ah, bh)


def _converted(equation, given, xp):
  low, high = given
  dtype = equation.params["new_dtype"]
  if np.issubdtype(dtype, np.bool_):
    zero = (xp.zeros_like(low),) * 2
    return _comparison("ne", given, zero, xp)
  # Rounding towards zero is increasing; a float that does not fit may give anything.
  wide = _wide(dtype, xp)
  if not np.issubdtype(dtype, np.integer):
    return xp.asarray(low, wide), xp.asarray(high, wide)
  over = _leaves(dtype, low, high, xp)
  zero = xp.zeros_like(low)
  low, high = (xp.asarray(xp.where(over, zero, x), wide) for x in (low, high))
  return _widened(over, low, high, dtype, xp)


def _selected(given, xp):
  (wl, wh), (nl, nh), (yl, yh) = given
  low = xp.where(wl == 1, yl, xp.where(wh == 0, nl, xp.minimum(nl, yl)))
  high = xp.where(wl == 1, yh, xp.where(wh == 0, nh, xp.maximum(nh, yh)))
  return low, high


def _quotient(a, b, xp):
  """Divides with rounding towards zero, as jax.lax.div does."""
  size = xp.abs(a) // xp.maximum(xp.abs(b), 1)
  return xp.where((a < 0) == (b < 0), size, -size)


def _divided(a, b, dtype, xp):
  (al, ah), (bl, bh) = a, b
  corners = [_quotient(x, y, xp) for x in (al, ah) for y in (bl, bh)]
  over = ~((bl > 0) | (bh < 0)) | (al == np.iinfo(dtype).min)
  return _widened(over, _least(corners, xp), _greatest(corners, xp), dtype, xp)


def _remainder(a, b, dtype, xp):
  """Returns bounds of jax.lax.rem, of a's sign; tight if a block lies in one period."""
  (al, ah), (bl, bh) = a, b
  most = xp.maximum(xp.abs(bl), xp.abs(bh)) - 1
  d = xp.maximum(bl, 1)
  one = (bl == bh) & (bl > 0) & (al >= 0) & (al // d == ah // d)
  low = xp.where(al < 0, -most, 0 * most)
  high = xp.where(ah > 0, most, 0 * most)
  low, high = xp.where(one, al % d, low), xp.where(one, ah % d, high)
  return _widened((bl <= 0) & (bh >= 0), low, high, dtype, xp)


def _least(corners, xp):
  low = corners[0]
  for corner in corners[1:]:
    low = xp.minimum(low, corner)
  return low


def _greatest(corners, xp):
  high = corners[0]
  for corner in corners[1:]:
    high = xp.maximum(high, corner)
  return high


def _product(xp, a, b):
  corners = [_times(x, y, xp) for x in a for y in b]
  return _least(corners, xp), _greatest(corners, xp)


def _times(x, y, xp):
  zero = (x == 0) | (y == 0)  # also 0 times an infinity
  return xp.where(zero, 0, x * xp.where(zero, 0, y))


def _absolute(xp, a):
  low, high = a
  ends = xp.abs(low), xp.abs(high)
  across = (low < 0) & (high > 0)
  return xp.where(across, 0 * low, xp.minimum(*ends)), xp.maximum(*ends)


def _clamped(xp, least, a, most):
  return tuple(xp.minimum(xp.maximum(x, lo), hi) for lo, x, hi in zip(least, a, most))


_ARITHMETIC = {
  "add": lambda xp, a, b: (a[0] + b[0], a[1] + b[1]),
  "sub": lambda xp, a, b: (a[0] - b[1], a[1] - b[0]),
  "neg": lambda xp, a: (-a[1], -a[0]),
  "mul": _product,
  "max": lambda xp, a, b: (xp.maximum(a[0], b[0]), xp.maximum(a[1], b[1])),
  "min": lambda xp, a, b: (xp.minimum(a[0], b[0]), xp.minimum(a[1], b[1])),
  "abs": _absolute,
  "clamp": _clamped,
}


def _arithmetic(name, given, dtype, xp):
  """Returns an operation's bounds, the type's limits where integers may wrap around."""
  low, high = _ARITHMETIC[name](xp, *given)
  if np.issubdtype(dtype, np.integer):
    rough = [tuple(xp.asarray(end, np.float32) for end in pair) for pair in given]
    least, most = _ARITHMETIC[name](xp, *rough)
    return _widened(_leaves(dtype, least, most, xp), low, high, dtype, xp)
  lost = xp.isnan(low) | xp.isnan(high)  # infinity less infinity
  return xp.where(lost, -np.inf, low), xp.where(lost, np.inf, high)


def _leaves(dtype, low, high, xp):
  """Returns whether a bound may lie outside of a type of integers."""
  limits = np.iinfo(dtype)
  if np.issubdtype(low.dtype, np.floating):
    room = 1 - _SLACK
    return ~((low >= limits.min * room) & (high <= limits.max * room))
  if xp is not np and limits.bits >= low.dtype.itemsize * 8:
    return xp.zeros_like(low, bool)
  return (low < limits.min) | (high > limits.max)


def _widened(over, low, high, dtype, xp):
  """Returns the bounds, or, where `over`, the limits of the type."""
  limits = np.iinfo(dtype)
  return xp.where(over, limits.min, low), xp.where(over, limits.max, high)


def _anything(dtype, given, xp):
  shape = np.broadcast_shapes(*(low.shape for low, _ in given))
  if np.issubdtype(dtype, np.bool_):
    return xp.zeros(shape, np.int32), xp.ones(shape, np.int32)
  if np.issubdtype(dtype, np.signedinteger):
    limits, wide = np.iinfo(dtype), _wide(dtype, xp)
    return xp.full(shape, limits.min, wide), xp.full(shape, limits.max, wide)
  infinite = xp.full(shape, np.inf, np.float32)
  return -infinite, infinite
