"""Reads signatures as they are written, with the meaning of each option."""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.docs import docstrings

_MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")
# A comment that only says what 0 is: what all Layers share says it too.
_ZERO = re.compile("0: ")
WIDTH = 88  # as the linter formats programs in pages
# What hosts give to every Layer and Model, and options that mean one thing in all.
OF_LAYERS = {
  "dim": "D, the width of the model.",
  "form": "how the layer plugs into a host, one of FORMS.",
  "layers": "number of layers of the model, on which the mathematics depends.",
  "rngs": "for the parameters: `nnx.Rngs`, or a number.",
  "heads": "N, of the queries.",
  "kv_heads": "K, of keys and values, which divides N; 0: as many as heads.",
  "head_dim": "H, the size of a head; 0: dim / heads.",
  "qk_norm": "an RMS norm of each query and key head.",
  "qkv_bias": "a bias in the projections to queries, keys and values.",
  "out_bias": "a bias in the output projection.",
  "rope_theta": "base of the rotary positions; 0: no rotation.",
  "scale": "of the scores; 0: H^-0.5.",
  "impl": 'as in the function: "auto", or one of IMPLEMENTATIONS.',
}


@dataclasses.dataclass(frozen=True)
class Option:
  """A parameter of a function.

  Attributes:
    name: without stars.
    kind: of `inspect.Parameter`.
    annotation: as it is written; "" if there is none.
    default: as it is written; "" if it must be given.
    meaning: what the docstring, or the comment beside it, says.
  """

  name: str
  kind: Any
  annotation: str
  default: str
  meaning: str


def options(function: Callable, shared: Mapping[str, str] = {}) -> list[Option]:
  """Returns the parameters of a function, or of a class's constructor.

  Args:
    function: anything that can be called.
    shared: maps names to what they mean wherever the function itself does not say it.
  """
  read = docstrings.read(inspect.getdoc(function))
  said = docstrings.defined(read.blocks) | read.arguments
  written = _written(function)
  found = []
  for parameter in inspect.signature(function).parameters.values():
    annotation, default, comment = written.get(parameter.name, _shown(parameter))
    meaning = said.get(parameter.name) or _sentence(comment)
    if not meaning or _ZERO.match(meaning):
      meaning = shared.get(parameter.name, meaning)
    found.append(Option(parameter.name, parameter.kind, annotation, default, meaning))
  return found


def call(name: str, function: Callable) -> str:
  """Returns the call with all parameters, on one line if it fits, as Python text."""
  shown, starred = [], False
  for option in options(function):
    text = option.name
    if option.kind is inspect.Parameter.VAR_KEYWORD:
      text = f"**{text}"
    elif option.kind is inspect.Parameter.VAR_POSITIONAL:
      text, starred = f"*{text}", True
    elif option.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
      shown.append("*")
      starred = True
    text += f": {option.annotation}" if option.annotation else ""
    equals = " = " if option.annotation else "="
    shown.append(text + (equals + option.default if option.default else ""))
  return wrapped(name, shown, _result(function))


def wrapped(name: str, arguments: Sequence[str], result: str = "") -> str:
  """Returns a call on one line, on three, or with one argument a line."""
  line = f"{name}({', '.join(arguments)}){result}"
  if len(line) <= WIDTH:
    return line
  inner = f"  {', '.join(arguments)}"
  if len(inner) <= WIDTH and not result:
    return f"{name}(\n{inner}\n)"
  return f"{name}(\n" + "".join(f"  {text},\n" for text in arguments) + f"){result}"


def _result(function: Callable) -> str:
  if inspect.isclass(function):
    return ""
  node = _definition(function)
  if node is not None:
    return f" -> {_text(node.returns)}" if node.returns is not None else ""
  found = inspect.signature(function).return_annotation
  return "" if found is inspect.Signature.empty else f" -> {_plain(found)}"


def _written(function: Callable) -> dict[str, tuple[str, str, str]]:
  """Maps names to (annotation, default, comment), as the source has them."""
  node = _definition(function)
  if node is None:
    return {}
  lines = _comments(_source(function))
  found, given = {}, node.args
  places = [*given.posonlyargs, *given.args]
  empty: list[ast.expr | None] = [None] * (len(places) - len(given.defaults))
  pairs = [*zip(places, [*empty, *given.defaults])]
  pairs += zip(given.kwonlyargs, given.kw_defaults)
  pairs += [(one, None) for one in (given.vararg, given.kwarg) if one is not None]
  for place, default in pairs:
    line = (default or place).end_lineno or 0
    texts = (_text(place.annotation), _text(default), lines.get(line, ""))
    found[place.arg] = texts
  return found


def _definition(function: Callable) -> ast.FunctionDef | None:
  """Returns the parsed source of a function or constructor; None without source."""
  source = _source(function)
  body = ast.parse(source).body if source else []
  return body[0] if body and isinstance(body[0], ast.FunctionDef) else None


def _source(function: Callable) -> str:
  target = function.__init__ if inspect.isclass(function) else function
  target = inspect.unwrap(target)
  if not inspect.isfunction(target):
    return ""
  try:
    return textwrap.dedent(inspect.getsource(target))
  except (OSError, TypeError):
    return ""


def _comments(source: str) -> dict[int, str]:
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}


def _sentence(comment: str) -> str:
  """Returns a trailing comment as a sentence; "" if it is for linters."""
  text = comment.lstrip("# ").strip()
  if not text or re.match(r"(noqa|type:|fmt:|pyrefly)", text):
    return ""
  return text if text.endswith(".") else f"{text}."


def _text(node: ast.expr | None) -> str:
  if node is None:
    return ""
  return re.sub(r"'([^'\"]*)'", r'"\1"', ast.unparse(node))


def _shown(parameter: inspect.Parameter) -> tuple[str, str, str]:
  empty = inspect.Parameter.empty
  annotation = "" if parameter.annotation is empty else _plain(parameter.annotation)
  return annotation, "" if parameter.default is empty else repr(parameter.default), ""


def _plain(annotation: Any) -> str:
  return _MODULES.sub("", inspect.formatannotation(annotation))
