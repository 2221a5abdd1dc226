"""Systems for parameterized tests; one that cannot be imported fails alone."""

import traceback
from collections.abc import Callable, Iterator

from attnjax import contract


def each(expand: Callable = lambda module: [("",)]) -> Iterator[tuple]:
  """(test name, module or None, error text, *case) for every system.

  `expand(module)` gives (name, *case) tuples. A system whose module or whose expansion
  raises yields one tuple with the error, which the test must raise.
  """
  for slug in contract.systems():
    try:
      module = contract.load(slug)
      cases = list(expand(module))
    except Exception:
      yield f"{slug}_import", None, traceback.format_exc()
      continue
    for name, *case in cases:
      yield (f"{slug}_{name}".rstrip("_"), module, "", *case)


def check(error: str) -> None:
  """Fails with the import error of the system, if there is one."""
  if error:
    raise AssertionError(error)
