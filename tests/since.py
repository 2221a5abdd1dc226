"""Which tests a change can touch: those whose imports, followed, reach a changed file.

`make test SINCE=<revision>` runs these. What a test imports is read from its source,
and so are the modules and configs that it names in strings, as tests do that start
programs; a test that is about a system imports the system's module. A change of what
no source imports, such as this file or the project's settings, touches all tests.
"""

import ast
import functools
import re
import subprocess
from pathlib import Path

from attnjax import contract
from tests import scopes

ROOT = Path(__file__).parent.parent
_ROOMS = ("attnjax", "pallas_kernels", "experiments", "configs", "tests")
_NAMED = re.compile(r"\b(?:attnjax|pallas_kernels|experiments|configs|tests)[.\w/]*")
_RUNS_KERNELS = {"tests/simulate.py", "tests/compiling.py"}
_PAGES = (".md", ".json", ".rst")
_OF_PAGES = ("docs_example_test", "docs_test", "layout_test", "notebooks_test")


def changed(revision: str) -> list[str]:
  """Returns the files that differ from a revision, the untracked ones among them."""
  found = []
  for command in (
    ["git", "diff", "--name-only", revision, "--"],
    ["git", "ls-files", "--others", "--exclude-standard"],
  ):
    done = subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
      raise ValueError(f"SINCE={revision}: {done.stderr.strip()}")
    found += done.stdout.split("\n")
  return sorted({name for name in found if name})


def touched(nodeid: str, files: list[str]) -> bool:
  """Returns whether a test may behave differently when those files change."""
  test = nodeid.partition("::")[0]
  slug = scopes.system(nodeid)
  roots = {test} | ({_file(contract.systems()[slug])} if slug else set())
  golden = re.compile(rf"tests/golden/{slug}(_\w+)?\.")
  roots |= set(filter(golden.match, _everything()))
  reached = frozenset().union(*map(_reached, roots))
  for name in files:
    if name in reached or golden.match(name):
      return True
    stem = Path(test).stem
    if name.endswith(_PAGES) and stem in _OF_PAGES:
      return True
    if name.endswith(".py") and stem == "layout_test":
      return True
    if name not in _everything() and not name.endswith((*_PAGES, ".npz")):
      return True
    if name in ("tests/conftest.py", "tests/since.py", "tests/scopes.py"):
      return True
  return False


@functools.cache
def _everything() -> frozenset[str]:
  """Returns all sources of the project."""
  files = (path for room in _ROOMS for path in (ROOT / room).rglob("*.py"))
  return frozenset(path.relative_to(ROOT).as_posix() for path in files)


@functools.cache
def _reached(file: str) -> frozenset[str]:
  """Returns a source and all that it imports, and what these import, and so on."""
  found: set[str] = set()
  # What is last is looked at first: whether kernels run is known before their packages.
  waiting = [file, *sorted(set(_imports(file)) & _RUNS_KERNELS)]
  while waiting:
    one = waiting.pop()
    if one not in found:
      found.add(one)
      waiting += _imports(one)
      # Backends of kernels are imported by name, and on CPUs by these alone.
      if found & _RUNS_KERNELS and re.fullmatch(r"pallas_kernels/\w+/__init__.py", one):
        folder = one.removesuffix("__init__.py")
        waiting += [name for name in _everything() if name.startswith(folder)]
  return frozenset(found)


@functools.cache
def _imports(file: str) -> tuple[str, ...]:
  """Returns the project's sources that a source names."""
  names: set[str] = set()
  for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      if file.startswith("tests/"):
        names |= {name.strip(".") for name in _NAMED.findall(node.value)}
  found = {_file(name) for name in names}
  parents = {f"{p.as_posix()}/__init__.py" for f in found for p in Path(f).parents}
  return tuple(sorted(((found | parents) & _everything()) - {file}))


@functools.cache
def _file(name: str) -> str:
  """Returns the source of a module, by its dotted name or its path; "" if none."""
  path = name.removesuffix(".py").replace(".", "/")
  for one in (f"{path}.py", f"{path}/__init__.py"):
    if one in _everything():
      return one
  return ""
