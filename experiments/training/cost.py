"""The cost of a step: its matrix products, and the memory that XLA reserves.

XLA's own count of FLOPs takes a loop's body once, whatever its trip count, so the
products are counted in the jaxpr; memory is from XLA's analysis of the executable.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval

from experiments.training import loop_counts


def flops(jaxpr, arguments: Sequence[Any] = ()) -> int:
  """Returns the number of multiplications and additions in a jaxpr's matrix products.

  Products that no result needs do not count. Of the branches of a `cond` the costliest
  counts, and the body of a loop as often as it runs. Where the trip count depends on
  the program's arguments, it is that with `arguments`; without any, it is 1.

  Args:
    jaxpr: with its constants.
    arguments: the program's arguments, their leaves in order.
  """
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, True, True)  # as XLA does
  if not loop_counts.loops(jaxpr):
    return total(jaxpr)
  kinds: list[Any] = [v.aval for v in jaxpr.invars]
  shapes = [jax.ShapeDtypeStruct(kind.shape, kind.dtype) for kind in kinds]
  counting = jax.make_jaxpr(
    lambda *given: loop_counts.counted(jaxpr, given, equation)[1]
  )
  small, used = partial_eval.dce_jaxpr(counting(*shapes).jaxpr, [True])
  if any(used) and not arguments:
    return total(jaxpr)
  given = [x for x, needed in zip(arguments, used) if needed]
  return round(float(jax.jit(jaxpr_as_fun(small))(*given)[0]))


def memory(compiled) -> dict[str, int]:
  """Returns the bytes of temporaries and of arguments, on each device."""
  analysis = compiled.memory_analysis()
  return {
    "bytes_temporary": int(analysis.temp_size_in_bytes),
    "bytes_arguments": int(analysis.argument_size_in_bytes),
  }


def total(jaxpr) -> int:
  """Returns FLOPs as `flops` does, but with the body of a while loop once."""
  return sum(equation(one) for one in jaxpr.eqns)


def equation(one) -> int:
  """Returns the FLOPs of the matrix products of one equation."""
  name = one.primitive.name
  if name == "dot_general":
    contracted = one.params["dimension_numbers"][0][0]
    shape = one.invars[0].aval.shape
    return 2 * one.outvars[0].aval.size * math.prod(shape[a] for a in contracted)
  if name == "conv_general_dilated":
    kernel = one.invars[1].aval
    channels = one.params["dimension_numbers"].rhs_spec[0]
    return 2 * one.outvars[0].aval.size * kernel.size // kernel.shape[channels]
  if name == "cond":
    return max(total(branch) for branch in one.params["branches"])
  inner = sum(total(jaxpr) for jaxpr in loop_counts.called(one))
  return inner * one.params["length"] if name == "scan" else inner
