"""How the work of a traced function grows with the length; nothing is compiled."""

import math
from collections.abc import Callable

import jax
from jax.extend.core import jaxprs_in_params

from experiments.training import cost


def traced(function: Callable, *shapes: tuple[int, ...]):
  """The jaxpr of a function of float32 arrays."""
  arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
  return jax.make_jaxpr(function)(*arrays).jaxpr


def largest(jaxpr) -> int:
  """Elements of the largest array that any equation makes."""
  size = 0
  for equation in jaxpr.eqns:
    made = (math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
    size = max(size, *made, *map(largest, jaxprs_in_params(equation.params)), 0)
  return size


def powers(function: Callable, shapes: Callable, lengths: tuple[int, int]):
  """(of the products, of the largest array): p where they grow as T^p, and the latter.

  Args:
    function: of arrays.
    shapes: T to the shapes of the arrays.
    lengths: two of them.
  """
  found = [traced(function, *shapes(length)) for length in lengths]
  step = math.log(lengths[1] / lengths[0])
  flops, sizes = ([f(jaxpr) for jaxpr in found] for f in (cost.flops, largest))
  return math.log(flops[1] / flops[0]) / step, math.log(sizes[1] / sizes[0]) / step
