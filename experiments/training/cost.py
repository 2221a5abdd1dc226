"""What a step costs: its matrix products, and the memory that XLA reserves.

XLA's own count of FLOPs takes a loop's body once, whatever its trip count, so the
products are counted in the jaxpr; memory is from XLA's analysis of the executable.
"""

import math

from jax.extend.core import jaxprs_in_params


def flops(jaxpr) -> int:
  """Multiplications and additions in the matrix products of a jaxpr.

  Of the branches of a condition the dearest counts; a while loop of unknown length
  counts once.
  """
  return sum(_equation(equation) for equation in jaxpr.eqns)


def memory(compiled) -> dict[str, int]:
  """Bytes of temporaries and of arguments, on each device."""
  analysis = compiled.memory_analysis()
  return {
    "bytes_temporary": int(analysis.temp_size_in_bytes),
    "bytes_arguments": int(analysis.argument_size_in_bytes),
  }


def _equation(equation) -> int:
  name = equation.primitive.name
  if name == "dot_general":
    contracted = equation.params["dimension_numbers"][0][0]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[a] for a in contracted)
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval
    channels = equation.params["dimension_numbers"].rhs_spec[0]
    return 2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[channels]
  if name == "cond":
    return max(flops(branch.jaxpr) for branch in equation.params["branches"])
  inner = sum(flops(jaxpr) for jaxpr in jaxprs_in_params(equation.params))
  return inner * equation.params["length"] if name == "scan" else inner
