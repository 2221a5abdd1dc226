"""Error messages for unknown names."""

import difflib
from collections.abc import Collection, Iterable


def check_known(what: str, name: str, known: Collection[str]) -> None:
  """Raises ValueError, with the nearest names and all of them, if `name` is unknown."""
  if name not in known:
    raise ValueError(unknown(what, name, known))


def check_options(**options: tuple[str, Collection[str]]) -> None:
  """Raises ValueError for the first of `name=(value, known)` whose value is unknown."""
  for what, (value, known) in options.items():
    check_known(what, value, known)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
  """Returns the message for an unknown name, with the nearest ones and all of them."""
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f"; did you mean {' or '.join(near)}?" if near else "."
  return f"unknown {what} {name!r}{hint} There are: {', '.join(sorted(known))}"
