"""Arrays of a golden file, by the beginnings of their names."""

from collections.abc import Mapping
from typing import Any


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """Returns the arrays whose names begin with `prefix`, named without it."""
  return {
    name.removeprefix(prefix): x
    for name, x in arrays.items()
    if name.startswith(prefix)
  }
