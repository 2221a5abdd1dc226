"""Options in a text, such as "keep_ratio=0.5,fuse=false", typed by their defaults."""

from collections.abc import Mapping
from typing import Any

from attnjax.contract.names import check_known


def read(owner: str, text: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options of a text, commas between them, + between a tuple's elements.

  Args:
    owner: whose options they are, for messages.
    text: the options.
    defaults: all options with their defaults, which give the types.

  Raises:
    ValueError: for an unknown option, or a value of another type.
  """
  given = {}
  for part in filter(None, text.split(",")):
    option, _, value = part.partition("=")
    check_known(f"option of {owner}", option, defaults)
    given[option] = _value(option, value, defaults[option])
  return given


def _value(name: str, text: str, default: Any) -> Any:
  try:
    if isinstance(default, tuple):
      return tuple(int(part) for part in filter(None, text.split("+")))
    if isinstance(default, bool):
      return {"true": True, "false": False}[text.lower()]
    return type(default)(text)
  except (ValueError, KeyError):
    kind = type(default).__name__
    raise ValueError(f"{name} = {text!r} is no {kind}, as {default!r} is") from None
