"""Reducers of tokens by their slugs: where they stand in a stack, and their options.

4:token_reorganization                         before block 4, the defaults
1+3:token_reorganization:keep_ratio=0.5,fuse=false   before blocks 1 and 3, with options
1:token_reorganization;3:...                   different ones
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from attnjax.contract import options, registry

_HOST = ("self", "dim", "rngs")


def reducers(given: str | Mapping[int, Callable]) -> dict[int, Callable]:
  """Returns what makes the reducer before each block that a text names.

  Args:
    given: the text, "" for none, or such a mapping itself.

  Raises:
    ValueError: for an unknown or unfit system, option, value or number of a block.
  """
  if not isinstance(given, str):
    return dict(given)
  found: dict[int, Callable] = {}
  for part in filter(None, given.split(";")):
    cuts, _, named = part.partition(":")
    slug, _, text = named.partition(":")
    build = _constructor(slug, text)
    for cut in cuts.split("+"):
      if not cut.strip().isdigit() or int(cut) in found:
        raise ValueError(
          f"between = {given!r}: {cut!r} is no number of a block, each once; the form"
          " is 1+3:token_reorganization:keep_ratio=0.5"
        )
      found[int(cut)] = build
  return found


def defaults(slug: str) -> dict[str, Any]:
  """Returns the options of a system's Reducer with their defaults.

  Raises:
    ValueError: for a system without one.
  """
  module = registry.load(slug)
  if "tokens" not in module.FORMS:
    raise ValueError(
      f"system {slug!r} has the forms {', '.join(module.FORMS)}; between blocks stand"
      " reducers, of the form tokens"
    )
  parameters = inspect.signature(module.Reducer.__init__).parameters.values()
  return {p.name: p.default for p in parameters if p.name not in _HOST}


def _constructor(slug: str, text: str) -> Callable:
  """Returns what makes a system's Reducer with the options of a text."""
  chosen = options.read(slug, text, defaults(slug))
  return functools.partial(registry.load(slug).Reducer, **chosen)
