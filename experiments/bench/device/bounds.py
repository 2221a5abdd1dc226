"""Judges results of the device by their errors alone."""

import math


def right(name: str, errors: dict, equal: bool) -> tuple[bool, str]:
  """Returns (whether a case is right, its worst result).

  Args:
    name: of the case. Two runs of a kernel must be equal to the bit; the programs of
      systems also have XLA's own scatter, which adds in any order.
    errors: result to (the kernels' error, plain JAX's).
    equal: whether two runs were equal.
  """
  bounds = {n: (3 if n[:2] == "d_" else 2) * b + 1e-5 for n, (_, b) in errors.items()}
  worst = max(errors, key=lambda n: errors[n][0] / bounds[n])
  ok = all(errors[n][0] <= bounds[n] for n in errors)
  return ok and (equal or name.startswith("system_")), worst


def limit(error: float, size: float) -> bool:
  """Returns whether a problem at a limit equals a small one to one step of bfloat16.

  Both round sums that differ in float32, since their tiles begin at other places.
  """
  return error <= 2.0 ** (math.frexp(size)[1] - 8)  # 8 bits from 2^(e - 1)
