"""Scalar functions that run on tiles: in plain JAX, inside Pallas, as Triton source.

A function of scalars is traced once. Its elementwise operations then run on arrays of
any shapes that broadcast against each other: a tile of scores (t, s), a column of query
indices (t, 1), a row of key indices (1, s).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from attnjax.core.devices import at_once, no_mesh, vary

# Operations that act on each element by itself: tiles may replace their scalars.
PRIMITIVES = frozenset(
  """
  abs add add_any and atan2 cbrt ceil clamp convert_element_type copy copy_p cos cosh
  div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma
  log log1p log2 logistic lt max min mul ne neg nextafter not one_minus_square or
  population_count pow reduce_precision rem round rsqrt select_n shift_left
  shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient
  sub tan tanh xor
  """.split()
)
# Operations that only reshape a scalar: identities here.
_RESTATED = frozenset(
  "broadcast_in_dim reshape squeeze optimization_barrier expand_dims".split()
)
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(frozen=True, eq=False)
class Elementwise:
  """A traced scalar function, hashable by its text.

  Attributes:
    operands: indices of the operands that it takes after its fixed arguments.
    jaxpr: of scalars, flat (no call inside another), without constants.
  """

  operands: tuple[int, ...]
  jaxpr: Any

  def __call__(self, *tiles):
    """Returns the function's value on arrays that broadcast against each other."""
    return evaluate(self.jaxpr, *tiles)[0]

  @functools.cached_property
  def _text(self) -> str:
    return f"{self.operands} {self.jaxpr}"

  def __eq__(self, other):
    return isinstance(other, Elementwise) and self._text == other._text

  def __hash__(self):
    return hash(self._text)


def trace(function: Callable, dtypes: Sequence[Any]) -> tuple[Any, list]:
  """Traces a function to (a flat jaxpr of consts and scalars, the captured consts)."""
  scalars = [jax.ShapeDtypeStruct((), d) for d in dtypes]
  # Under a mesh the jaxpr of a scalar would have shardings, which kernels lack.
  with no_mesh():
    closed = jax.make_jaxpr(function)(*scalars)
  consts = list(closed.consts)
  shapes = [jax.ShapeDtypeStruct(jnp.shape(c), jnp.result_type(c)) for c in consts]

  def inlined(consts, *scalars):
    return _inline(closed.jaxpr, consts, scalars)

  with no_mesh():
    flat = jax.make_jaxpr(inlined)(shapes, *scalars)
  if not flat.consts:
    return flat, consts
  # Arrays that a function called inside captures become arguments too.
  consts = [*flat.consts, *consts]

  def whole(inner, outer, *scalars):
    return jax.core.eval_jaxpr(flat.jaxpr, inner, *outer, *scalars)

  inner = [jax.ShapeDtypeStruct(jnp.shape(c), jnp.result_type(c)) for c in flat.consts]
  with no_mesh():
    return jax.make_jaxpr(whole)(inner, shapes, *scalars), consts


def elementwise(function: Callable, fixed: Sequence[Any], operands: Sequence[Any]):
  """Returns the Elementwise of function(*fixed, *operands), of the operands it uses.

  Args:
    function: of scalars.
    fixed: dtypes of its fixed arguments.
    operands: dtypes of its operands.

  Raises:
    NotImplementedError: naming an operation that is not elementwise.
  """
  closed, consts = trace(function, [*fixed, *operands])
  equations, read = live(closed.jaxpr)
  for equation in equations:
    name = equation.primitive.name
    if name not in PRIMITIVES | _RESTATED:
      raise NotImplementedError(f"operation {name!r} is not elementwise")
  captured, scalars = (
    closed.jaxpr.invars[: len(consts)],
    closed.jaxpr.invars[len(consts) :],
  )
  if any(id(v) in read for v in captured):
    raise ValueError("a function of scalars may not use an array that it captures")
  first = len(fixed)
  used = [i for i, v in enumerate(scalars[first:]) if id(v) in read]

  def narrow(*given):
    full: list[Any] = [None for _ in operands]
    for i, value in zip(used, given[first:]):
      full[i] = value
    return evaluate(closed, *(None for _ in consts), *given[:first], *full)

  scalars = [*fixed, *(operands[i] for i in used)]
  flat, _ = trace(narrow, scalars)
  return Elementwise(tuple(used), flat)


def live(jaxpr) -> tuple[list, set[int]]:
  """Returns (the equations that the results need, the ids of all variables read)."""
  read, equations = {id(v) for v in jaxpr.outvars}, []
  for equation in reversed(jaxpr.eqns):
    if any(id(v) in read for v in equation.outvars):
      equations.append(equation)
      read |= {id(v) for v in equation.invars}
  return equations[::-1], read


def evaluate(closed, *tiles) -> list:
  """Returns the results of a flat jaxpr of scalars on arrays that broadcast."""
  known = {id(v): t for v, t in zip(closed.jaxpr.invars, tiles, strict=True)}
  run(live(closed.jaxpr)[0], known)
  return [read(atom, known) for atom in closed.jaxpr.outvars]


def run(equations, known: dict[int, Any]) -> None:
  """Adds the results of elementwise equations on arrays that broadcast to `known`."""
  for equation in equations:
    results = _apply(equation, [read(a, known) for a in equation.invars])
    known.update((id(v), r) for v, r in zip(equation.outvars, results))


def read(atom, known: dict[int, Any]):
  """Returns the value of a variable or literal."""
  return atom.val if isinstance(atom, jex.Literal) else known[id(atom)]


def simple(equation) -> bool:
  """Returns whether an equation of scalars also runs on tiles."""
  scalars = all(v.aval.shape == () for v in (*equation.invars, *equation.outvars))
  return scalars and equation.primitive.name in PRIMITIVES | _RESTATED


def inlined(jaxpr, variable, known: dict[int, Any]):
  """Evaluates one variable of a flat jaxpr, by any operations, from known values."""
  made = {id(v): e for e in jaxpr.eqns for v in e.outvars}
  known = dict(known)

  def value(atom):
    if not isinstance(atom, jex.Literal) and id(atom) not in known:
      equation = made[id(atom)]
      given = vary([value(a) for a in equation.invars])
      result = equation.primitive.bind(*given, **equation.params)
      result = result if equation.primitive.multiple_results else [result]
      known.update((id(v), r) for v, r in zip(equation.outvars, result))
    return read(atom, known)

  return value(variable)


def _apply(equation, arguments) -> list:
  if equation.primitive.name in _RESTATED:
    return arguments
  if equation.primitive.name not in PRIMITIVES:
    raise NotImplementedError(
      f"operation {equation.primitive.name!r} is not elementwise"
    )
  wanted = [v.aval.dtype for v in equation.invars]
  arguments = vary([jnp.asarray(a, d) for a, d in zip(arguments, wanted)])
  if len({a.shape for a in arguments}) > 1:
    shape = jnp.broadcast_shapes(*(a.shape for a in arguments))
    arguments = [jnp.broadcast_to(a, shape) for a in arguments]
  params = dict(equation.params)
  if "sharding" in params:  # that of a scalar; a tile has none
    params["sharding"] = None
  result = equation.primitive.bind(*arguments, **params)
  return list(result) if equation.primitive.multiple_results else [result]


def inner(equation):
  """Returns the jaxpr (and its consts) that an equation calls, or None."""
  for name in _CALLS:
    if name in equation.params:
      called = equation.params[name]
      return (
        (called.jaxpr, called.consts) if hasattr(called, "consts") else (called, ())
      )
  return None


def _inline(jaxpr, consts, arguments) -> list:
  values: dict[int, Any] = {}

  def read(atom):
    return atom.val if isinstance(atom, jex.Literal) else values[id(atom)]

  def write(variables, results):
    values.update((id(v), r) for v, r in zip(variables, results))

  write(jaxpr.constvars, consts)
  write(jaxpr.invars, arguments)
  for equation in jaxpr.eqns:
    given = [read(a) for a in equation.invars]
    called = inner(equation)
    simple = called is not None and equation.primitive.name in (
      "jit",
      "pjit",
      "closed_call",
      "core_call",
      "custom_jvp_call",
      "custom_vjp_call",
      "remat",
      "remat2",
      "checkpoint",
    )
    if simple:
      write(equation.outvars, _inline(called[0], called[1], given))
      continue
    if equation.primitive.name == "reduce_sum" and not equation.params["axes"]:
      # Under a mesh the transpose of a broadcast over no axes is a sum over none.
      write(equation.outvars, given)
      continue
    known = not any(isinstance(g, jax.core.Tracer) for g in given)
    with at_once() if known else contextlib.nullcontext():
      result = equation.primitive.bind(*given, **equation.params)
    result = result if equation.primitive.multiple_results else [result]
    write(equation.outvars, map(np.asarray, result) if known else result)
  return [read(a) for a in jaxpr.outvars]
