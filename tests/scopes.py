"""Where a test belongs: which tests share a process, and which system pays for it."""

import functools
import pkgutil
from pathlib import PurePosixPath

from attnjax import variants

# Files whose tests are made for each system, which stands in the name of a test.
_OF_EVERY_SYSTEM = {
  "contract_test",
  "docs_test",
  "golden_test",
  "notebooks_test",
  "length_test",
}


@functools.cache
def _slugs() -> tuple[str, ...]:
  """All systems, the longest names first: none is then taken for a shorter one."""
  found = []
  for family in pkgutil.iter_modules(variants.__path__):
    folder = f"{variants.__path__[0]}/{family.name}"
    found += [system.name for system in pkgutil.iter_modules([folder])]
  return tuple(sorted(found, key=len, reverse=True))


@functools.cache
def system(nodeid: str) -> str | None:
  """Returns the slug of the system that a test is about, or None."""
  file, _, name = nodeid.partition("::")
  stem = PurePosixPath(file).stem
  name = f"_{name.rpartition('::')[2]}_"
  for slug in _slugs():
    if stem.startswith(f"{slug}_"):
      return slug
    if stem in _OF_EVERY_SYSTEM and f"_{slug}_" in name:
      return slug
  return None


def process(nodeid: str) -> str:
  """Returns the name of the group of tests that runs in one process.

  The tests of a system share its layers and what is compiled for them, those of a file
  what stands in it. Lowering tests wait for child processes and share nothing.
  """
  file = nodeid.partition("::")[0]
  if file.startswith("tests/data/"):
    return "data"
  if file.endswith("lowering_test.py"):
    return nodeid
  return system(nodeid) or file


def area(nodeid: str) -> str:
  """Returns what part of the suite a test belongs to: a folder, or a file beside it."""
  path = PurePosixPath(nodeid.partition("::")[0])
  return path.stem if path.parent.name == "tests" else path.parent.name
