"""Writes a program of a few lines that uses a system: a simple case, its LAYER."""

import ast
import inspect
import re
from types import ModuleType
from typing import Any

from attnjax.contract import Case
from experiments.docs import signatures

_SIDES = {"causal": (12,), "sequence": (12,), "image": (8, 8)}
_LENGTH = 12  # tokens of each stream
_AXES = {"causal": "B, T, D", "sequence": "B, T, D", "image": "B, H, W, D"}


def snippet(slug: str, module: ModuleType, form: str = "") -> str:
  """Returns a program: every function of the cases, and a layer.

  Args:
    slug: the system.
    module: its module.
    form: of the layer; no layer if "".
  """
  lines = ["import jax", "import attnjax"]
  lines += ["from attnjax.core.streams import Stream", ""] if form == "cross" else [""]
  seed = 0
  for function in dict.fromkeys(case.function for case in module.CASES):
    cases = [case for case in module.CASES if case.function == function]
    case = min(filter(_literal, cases), key=_plainness, default=None)
    if case is None:
      lines += _of_case(slug, module, cases[0])
      continue
    drawn = _drawn(module, case, seed)
    seed += len(drawn)
    lines += [*drawn, _called(slug, module, case)]
  if form == "cross":
    lines += _between_streams(slug, module, seed)
  elif form:
    shape = (2, *_SIDES[form], module.LAYER["dim"])
    lines += [
      _layer(slug, module, form),
      f"x = jax.random.normal(jax.random.key({seed}), {shape})  # ({_AXES[form]})",
      "y = layer(x)",
    ]
  return "\n".join(lines)


def _literal(case: Case) -> bool:
  """Tells whether a case has only shapes, and options that are literals."""
  return case.make is None and all(_written(v) for v in case.options.values())


def _plainness(case: Case) -> tuple[bool, int]:
  """Ranks cases: few arrays and options come first, single tokens last."""
  tiny = all(size < 2 for shape in case.shapes.values() for size in shape[1:2])
  return tiny, len(case.shapes) + len(case.options)


def _written(value: Any) -> bool:
  try:
    return ast.literal_eval(repr(value)) == value
  except (ValueError, SyntaxError):
    return False


def _drawn(module: ModuleType, case: Case, seed: int) -> list[str]:
  """Returns lines that draw the arrays; neighbours of one shape share a line."""
  groups: list[tuple[list[str], tuple[int, ...]]] = []
  for name, shape in case.shapes.items():
    if groups and groups[-1][1] == shape:
      groups[-1][0].append(name)
    else:
      groups.append(([name], shape))
  axes = _axes(module, case)
  lines = []
  for number, (names, shape) in enumerate(groups, seed):
    drawn = shape if len(names) == 1 else (len(names), *shape)
    called = f"{', '.join(names)} = jax.random.normal"
    line = signatures.wrapped(called, [f"jax.random.key({number})", f"{drawn}"])
    said = f"{line}  # ({axes[names[0]]})" if axes.get(names[0]) else line
    lines.append(said if len(said) <= signatures.WIDTH else line)
  return lines


def _axes(module: ModuleType, case: Case) -> dict[str, str]:
  """Maps the names of arrays to the axes in the function's signature."""
  found = {}
  for option in signatures.options(case.implemented(module)):
    match = re.search(r'\[Array[^,]*, "([^"]*)"\]', option.annotation)
    shape = case.shapes.get(option.name, ())
    names = match[1].replace("#", "").split() if match else []
    if len(names) == len(shape) and not any(n.startswith("*") for n in names):
      found[option.name] = ", ".join(names)
  return found


def _called(slug: str, module: ModuleType, case: Case) -> str:
  parameters = inspect.signature(case.implemented(module)).parameters
  given, named = [], False
  for name, parameter in parameters.items():
    if name in case.shapes:
      keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY or named
      given.append(f"{name}={name}" if keyword else name)
    elif name in case.options:
      given.append(f"{name}={_literally(case.options[name])}")
    named = named or name not in case.shapes
  return signatures.wrapped(f"out = attnjax.{slug}.{case.function}", given)


def _of_case(slug: str, module: ModuleType, case: Case) -> list[str]:
  number = list(module.CASES).index(case)
  return [
    f"case = attnjax.{slug}.CASES[{number}]",
    signatures.wrapped(
      f"out = attnjax.{slug}.{case.function}",
      ["**case.arrays()", "**case.arguments()"],
    ),
  ]


def _between_streams(slug: str, module: ModuleType, seed: int) -> list[str]:
  """Returns lines that call a layer of the form "cross"; x and y are of one stream."""
  first = _literally(module.STREAMS[0])
  options = {n: v for n, v in module.LAYER.items() if n != "dims"}
  named = [f"{name}={_literally(value)}" for name, value in options.items()]
  items = [f'"{n}": {module.LAYER["dims"][n]}' for n in module.STREAMS]
  given = ["dims", 'form="cross"', *named, "rngs=0"]
  shape = (2, _LENGTH, module.LAYER["dims"][module.STREAMS[0]])
  return [
    f"dims = {{{', '.join(items)}}}",
    signatures.wrapped(f"layer = attnjax.{slug}.Layer", given),
    f"x = jax.random.normal(jax.random.key({seed}), {shape})  # (B, T, D)",
    signatures.wrapped(
      "draw = jax.random.normal",
      [f"jax.random.key({seed + 1})", f"(2, {_LENGTH}, max(dims.values()))"],
    ),
    "streams = {name: Stream(draw[..., :dim]) for name, dim in dims.items()}",
    f"y = layer(streams | {{{first}: Stream(x)}})[{first}]",
  ]


def _layer(slug: str, module: ModuleType, form: str) -> str:
  given = {"form": form} | {n: v for n, v in module.LAYER.items() if n != "dim"}
  named = [f"{name}={_literally(value)}" for name, value in given.items()]
  given = [str(module.LAYER["dim"]), *named, "rngs=0"]
  return signatures.wrapped(f"layer = attnjax.{slug}.Layer", given)


def _literally(value: Any) -> str:
  return repr(value).replace("'", '"') if isinstance(value, str) else repr(value)
