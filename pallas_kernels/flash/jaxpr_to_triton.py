"""Translation of a scalar jaxpr to Triton source that runs on broadcasting tiles.

Every equation becomes one line. Literals become tensors of one element: a Python number
would take the other operand's type, and Triton's helpers want tensors.
"""

import linecache
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import triton
import triton.language as tl
from jax.extend import core as jex

from pallas_kernels.flash import triton_math

TYPES = {
  "bool": "tl.int1",
  "int8": "tl.int8",
  "int16": "tl.int16",
  "int32": "tl.int32",
  "int64": "tl.int64",
  "uint8": "tl.uint8",
  "uint16": "tl.uint16",
  "uint32": "tl.uint32",
  "uint64": "tl.uint64",
  "bfloat16": "tl.bfloat16",
  "float16": "tl.float16",
  "float32": "tl.float32",
  "float64": "tl.float64",
}

# {0}, {1}, {2}: the operands.
_ANY = {
  "add": "{0} + {1}",
  "add_any": "{0} + {1}",
  "sub": "{0} - {1}",
  "mul": "{0} * {1}",
  "max": "tl.maximum({0}, {1})",
  "min": "tl.minimum({0}, {1})",
  "clamp": "tl.minimum(tl.maximum({1}, {0}), {2})",
  "neg": "-{0}",
  "abs": "tl.abs({0})",
  "square": "{0} * {0}",
  "one_minus_square": "(1 - {0}) * (1 + {0})",
  "eq": "{0} == {1}",
  "ne": "{0} != {1}",
  "lt": "{0} < {1}",
  "le": "{0} <= {1}",
  "gt": "{0} > {1}",
  "ge": "{0} >= {1}",
  "rem": "{0} % {1}",
  "copy": "{0}",
  "copy_p": "{0}",
  "stop_gradient": "{0}",
  "broadcast_in_dim": "{0}",
  "reshape": "{0}",
  "squeeze": "{0}",
  "expand_dims": "{0}",
  "optimization_barrier": "{0}",
}
_INTEGER = {
  "div": "{0} // {1}",
  "and": "{0} & {1}",
  "or": "{0} | {1}",
  "xor": "{0} ^ {1}",
  "not": "~{0}",
  "shift_left": "{0} << {1}",
  "shift_right_logical": "{0} >> {1}",
  "shift_right_arithmetic": "{0} >> {1}",
  "sign": "({0} > 0).to({0}.dtype) - ({0} < 0).to({0}.dtype)",
}
_FLOAT = {
  "div": "{0} / {1}",
  "exp": "tl.exp({0})",
  "exp2": "tl.exp2({0})",
  "expm1": "expm1({0})",
  "log": "tl.log({0})",
  "log2": "tl.log2({0})",
  "log1p": "log1p({0})",
  "logistic": "1.0 / (1.0 + tl.exp(-{0}))",
  "tanh": "tanh({0})",
  "sinh": "0.5 * (expm1({0}) - expm1(-{0}))",
  "cosh": "0.5 * (tl.exp({0}) + tl.exp(-{0}))",
  "sin": "tl.sin({0})",
  "cos": "tl.cos({0})",
  "tan": "tl.sin({0}) / tl.cos({0})",
  "sqrt": "tl.sqrt_rn({0})",
  "rsqrt": "tl.rsqrt({0})",
  "erf": "tl.erf({0})",
  "erfc": "1.0 - tl.erf({0})",
  "floor": "tl.floor({0})",
  "ceil": "tl.ceil({0})",
  "is_finite": 'tl.abs({0}) < float("inf")',
  "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, {0}))",
}


def translate(closed, arguments: Sequence[str], prefix: str = "x"):
  """Returns (lines of Triton, names of the results) for a flat jaxpr of scalars.

  Args:
    closed: a ClosedJaxpr of elementwise primitives, from `core.scalar_functions.trace`.
    arguments: names of the jaxpr's inputs in the source, where they are tensors.
    prefix: first letters of the names of intermediate values.

  Raises:
    NotImplementedError: naming a primitive that has no translation.
  """
  jaxpr, names, lines = closed.jaxpr, {}, []
  for variable, name in zip(jaxpr.invars, arguments, strict=True):
    names[id(variable)] = name
  for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
    names[id(variable)] = _literal(value, variable.aval.dtype)

  def name(atom: Any) -> str:
    if isinstance(atom, jex.Literal):
      aval: Any = atom.aval
      return _literal(atom.val, aval.dtype)
    return names[id(atom)]

  for equation in jaxpr.eqns:
    given = [name(a) for a in equation.invars]
    (result,) = equation.outvars
    names[id(result)] = f"{prefix}{len(lines)}"
    lines.append(f"{prefix}{len(lines)} = {_expression(equation, given)}")
  return lines, [name(a) for a in jaxpr.outvars]


def functions(source: str) -> dict[str, Any]:
  """Returns the namespace of a text of @triton.jit functions, cached by the text.

  Triton reads a function's source again, so the text is put into `linecache`, where
  Python's tracebacks look for it, and no file is written.
  """
  if source not in _MADE:
    filename = f"<attnjax {zlib.crc32(source.encode()):08x}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    scope = {"__name__": __name__, "triton": triton, "tl": tl}
    scope |= {name: getattr(triton_math, name) for name in triton_math.__all__}
    exec(compile(source, filename, "exec"), scope)
    _MADE[source] = scope
  return _MADE[source]


_MADE: dict[str, dict[str, Any]] = {}


def _literal(value, dtype) -> str:
  kind = TYPES[_named(dtype)]
  number = np.asarray(value).astype(dtype).item()
  text = f'float("{number}")' if not np.isfinite(number) else repr(number)
  return f"tl.full([1, 1], {text}, {kind})"


def _named(dtype) -> str:
  name = jnp.dtype(dtype).name
  if name not in TYPES:
    raise NotImplementedError(f"impl 'triton': no translation of the type {name}")
  return name


def _expression(equation, given: list[str]) -> str:
  primitive = equation.primitive.name
  if primitive in _SPECIAL:
    return _SPECIAL[primitive](equation, given)
  floating = jnp.issubdtype(equation.invars[0].aval.dtype, jnp.floating)
  table = _ANY | (_FLOAT if floating else _INTEGER)
  if primitive not in table:
    raise NotImplementedError(f"impl 'triton': no translation of {primitive!r}")
  return table[primitive].format(*given)


def _convert(equation, given: list[str]) -> str:
  source = equation.invars[0].aval.dtype
  target = equation.params["new_dtype"]
  if _named(target) == "bool" and _named(source) != "bool":
    return f"{given[0]} != 0"
  return f"{given[0]}.to({TYPES[_named(target)]})"


def _select(equation, given: list[str]) -> str:
  if len(given) != 3:
    raise NotImplementedError(f"impl 'triton': select_n of {len(given) - 1} cases")
  which = given[0]
  if equation.invars[0].aval.dtype != bool:
    which = f"{which} != 0"
  return f"tl.where({which}, {given[2]}, {given[1]})"


def _integer_pow(equation, given: list[str]) -> str:
  power = equation.params["y"]
  if power == 0:
    return f"{given[0]} * 0 + 1"
  product = " * ".join([given[0]] * abs(power))
  return product if power > 0 else f"1.0 / ({product})"


def _pow(equation, given: list[str]) -> str:
  if not jnp.issubdtype(equation.invars[0].aval.dtype, jnp.floating):
    raise NotImplementedError("impl 'triton': no translation of 'pow' of integers")
  exponent = given[1]
  if not jnp.issubdtype(equation.invars[1].aval.dtype, jnp.floating):
    exponent = f"{exponent}.to(tl.float32)"
  # NaN for negative bases, as JAX gives for exponents that are not integers.
  power = f"tl.exp2({exponent} * tl.log2({given[0]}))"
  return f"tl.where({exponent} == 0, 1.0, {power})"


def _shift_logical(equation, given: list[str]) -> str:
  dtype = jnp.dtype(equation.invars[0].aval.dtype)
  if jnp.issubdtype(dtype, jnp.unsignedinteger):
    return f"{given[0]} >> {given[1]}"
  unsigned = TYPES[f"u{dtype.name}"]
  shifted = f"{given[0]}.to({unsigned}, bitcast=True) >> {given[1]}.to({unsigned})"
  return f"({shifted}).to({TYPES[dtype.name]}, bitcast=True)"


def _round(equation, given: list[str]) -> str:
  away = equation.params["rounding_method"] == jax.lax.RoundingMethod.AWAY_FROM_ZERO
  return f"{'round_away' if away else 'round_even'}({given[0]})"


def _reduce_precision(equation, given: list[str]) -> str:
  bits = equation.params["exponent_bits"], equation.params["mantissa_bits"]
  kinds = {(8, 7): "tl.bfloat16", (5, 10): "tl.float16", (8, 23): "tl.float32"}
  if bits not in kinds:
    raise NotImplementedError(f"impl 'triton': reduce_precision to {bits} bits")
  back = TYPES[_named(equation.invars[0].aval.dtype)]
  return f"{given[0]}.to({kinds[bits]}).to({back})"


_SPECIAL: dict[str, Callable] = {
  "convert_element_type": _convert,
  "select_n": _select,
  "integer_pow": _integer_pow,
  "pow": _pow,
  "shift_right_logical": _shift_logical,
  "reduce_precision": _reduce_precision,
  "round": _round,
}
