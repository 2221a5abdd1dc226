"""The arguments of an analysis, read from the command line."""

import ast
import functools
import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from attnjax import contract
from experiments.errors import UserError


@functools.cache
def names() -> tuple[str, ...]:
  """Returns the slugs of the systems of the form "analysis"."""
  family = [s for s, name in contract.systems().items() if ".analysis." in name]
  return tuple(s for s in family if "analysis" in contract.load(s).FORMS)


def analyses(text: str) -> dict[str, ModuleType]:
  """Returns the modules of slugs with commas between.

  Raises:
    UserError: for a slug that is no analysis, with the nearest names.
  """
  slugs = [slug.strip() for slug in text.split(",") if slug.strip()]
  if not slugs:
    raise UserError(f"--with = {text!r}; name one of {', '.join(names())}")
  for slug in slugs:
    if slug not in names():
      raise UserError(f"--with: {contract.unknown('analysis', slug, names())}")
  return {slug: contract.load(slug) for slug in slugs}


def parsed(
  modules: Mapping[str, ModuleType], given: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """Returns each analysis' options from NAME=VALUE.

  Raises:
    UserError: for a name that no analysis has, and a value of another type.
  """
  found: dict[str, dict[str, Any]] = {slug: {} for slug in modules}
  for text in given:
    name, equals, value = text.partition("=")
    if not equals:
      raise UserError(f"--option {text!r}; it must be NAME=VALUE")
    owners = [s for s, module in modules.items() if name in _defaults(module)]
    if not owners:
      known = sorted({n for module in modules.values() for n in _defaults(module)})
      raise UserError(f"--option: {contract.unknown('option', name, known)}")
    for slug in owners:
      found[slug][name] = _value(name, value, _defaults(modules[slug])[name])
  return found


def _defaults(module: ModuleType) -> dict[str, Any]:
  parameters = list(inspect.signature(module.analyse).parameters.values())[1:]
  return {p.name: p.default for p in parameters}


def _value(name: str, text: str, default: Any) -> Any:
  if isinstance(default, str):
    return text
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    raise UserError(f"--option {name} = {text!r}; it is no number") from None
  kind = float if type(default) is float and type(value) is int else type(default)
  if default is not None and kind is float:
    value = float(value)
  if default is not None and type(value) is not type(default):
    raise UserError(
      f"--option {name} = {text!r}; it must be {type(default).__name__},"
      f" as the default {default!r}"
    )
  return value


def check_host(modules: Mapping[str, ModuleType], host: str) -> None:
  """Raises UserError unless every analysis reads traces of the host."""
  for slug, module in modules.items():
    if host not in module.HOSTS:
      raise UserError(
        f"{slug} reads runs of the host {' or '.join(module.HOSTS)}; this one is of"
        f" {host!r}"
      )


def heads(text: str) -> list[tuple[int, int]]:
  """Returns (layer, head) of "0.1,3.0".

  Raises:
    UserError: for another text.
  """
  found = []
  for part in filter(None, text.split(",")):
    layer, dot, head = part.strip().partition(".")
    if not (dot and layer.isdigit() and head.isdigit()):
      raise UserError(f"--heads {part!r}; it must be layer.head, such as 3.0")
    found.append((int(layer), int(head)))
  return found
