"""Processes in which a system is broken: its tests, and its outputs.

This process imports all but the system, and makes no device; each trial is a fork of
it, which imports the system with one module's syntax tree in the place of its source.
"""

import ast
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
# Status of a trial whose broken module cannot be imported, or that takes too long.
IMPORT, LATE = 70, 71


def prepare(slug: str) -> str:
  """Imports what trials share; returns the name of the system's package or module."""
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  own = ""
  import jax
  import jax_triton  # noqa: F401
  import pytest  # noqa: F401

  from attnjax import variants

  for family in pkgutil.iter_modules(variants.__path__):
    folder = f"{variants.__path__[0]}/{family.name}"
    for system in pkgutil.iter_modules([folder]):
      name = f"{variants.__name__}.{family.name}.{system.name}"
      if system.name == slug:
        own = name
      else:
        importlib.import_module(name)
  from jax._src import xla_bridge

  assert not xla_bridge.backends_are_initialized(), "a device cannot be forked"
  assert jax.__name__ and own, f"there is no system {slug}"
  return own


def files(own: str) -> dict[str, Path]:
  """Returns the modules of a system and their files."""
  path = ROOT / Path(*own.split("."))
  if path.is_dir():
    found = {f"{own}.{p.stem}": p for p in sorted(path.glob("*.py"))}
    found[own] = found.pop(f"{own}.__init__")
    return found
  return {own: path.with_suffix(".py")}


class _Broken(importlib.machinery.SourceFileLoader):
  """Loads a module from a syntax tree."""

  tree: ast.Module

  def get_code(self, fullname):
    """Compiles the tree."""
    return compile(self.tree, self.path, "exec")


class _Finder:
  """Finds one module."""

  def __init__(self, name: str, path: Path, tree: ast.Module):
    self.name, self.path, self.tree = name, path, tree

  def find_spec(self, name, path=None, target=None):
    """Returns the broken module's specification, and None for all others."""
    if name != self.name:
      return None
    loader = _Broken(name, str(self.path))
    loader.tree = self.tree
    folders = [str(self.path.parent)] if self.path.stem == "__init__" else None
    return importlib.util.spec_from_file_location(
      name, self.path, loader=loader, submodule_search_locations=folders
    )


def fork(
  own: str, broken: Any, run: Callable[[], int], log: Path, seconds: float
) -> int:
  """Starts a trial; returns its process.

  Args:
    own: the name of the system's package.
    broken: (name of a module, its file, its tree); None leaves all as it is.
    run: what it runs, which returns the status.
    log: the file of what it prints.
    seconds: of a processor, after which it is ended; on a busy machine they are more
      of the clock.
  """
  sys.stdout.flush()
  process = os.fork()
  if process:
    return process
  status = 1
  try:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (round(seconds), round(seconds) + 5))
    for number in (1, 2):
      os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    if broken is not None:
      sys.meta_path.insert(0, _Finder(*broken))
      try:
        importlib.import_module(own)
      except Exception:
        os._exit(IMPORT)
    status = run()
  finally:
    os._exit(status)
  raise AssertionError("a trial has gone on")


def wait(running: dict[int, float]) -> tuple[int, int, float]:
  """Waits for one of the trials; returns (process, status, processor seconds).

  `running` maps processes to the second of the clock at which they are ended.
  """
  while True:
    for process, end in running.items():
      done, status, used = os.wait4(process, os.WNOHANG)
      late = not done and time.monotonic() > end
      if late:
        os.killpg(process, signal.SIGKILL)
        _, status, used = os.wait4(process, 0)
      if done or late:
        code = os.waitstatus_to_exitcode(status)
        late |= code == -signal.SIGXCPU
        return process, LATE if late else code, used.ru_utime + used.ru_stime
    time.sleep(0.05)


class _Watch:
  """A pytest plugin: orders the tests, and notes which of them run each line."""

  def __init__(self, lines: Path | None, own: str, first: Sequence[str]):
    self.lines, self.paths = lines, {str(path) for path in files(own).values()}
    self.first = {name: place for place, name in enumerate(first)}
    self.test = ""
    self.seen: dict[str, set[str]] = {}
    self.seconds: dict[str, float] = {}
    if lines is not None:
      self._watch()

  def _watch(self):
    """Notes each line of the files once a test, when it is run."""
    monitoring = sys.monitoring
    tool = monitoring.COVERAGE_ID
    monitoring.use_tool_id(tool, "attnjax")

    def line(code, number):
      if code.co_filename in self.paths:
        self.seen.setdefault(f"{code.co_filename}:{number}", set()).add(self.test)
      return monitoring.DISABLE

    monitoring.register_callback(tool, monitoring.events.LINE, line)
    monitoring.set_events(tool, monitoring.events.LINE)

  def pytest_collection_modifyitems(self, items):
    """Puts the tests that run the broken line first, and what is slow behind."""
    slow = ("pallas", "triton", "lowering", "trains")
    behind = len(self.first)
    items.sort(
      key=lambda item: (
        self.first.get(item.nodeid, behind),
        any(s in item.nodeid for s in slow),
      )
    )

  def pytest_runtest_setup(self, item):
    """Begins to note the lines of a test."""
    self.test = item.nodeid
    if self.lines is not None:
      sys.monitoring.restart_events()

  def pytest_runtest_logreport(self, report):
    """Adds up the seconds of a test."""
    self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration

  def pytest_sessionfinish(self):
    """Writes which tests ran each line, the quickest first."""
    if self.lines is not None:
      seconds = self.seconds | {"": 0.0}  # "" is the import
      found = {
        k: sorted(tests, key=seconds.__getitem__) for k, tests in self.seen.items()
      }
      self.lines.write_text(json.dumps(found))


def tests(
  slug: str, own: str, lines: Path | None = None, first: Sequence[str] = ()
) -> int:
  """Runs a system's tests up to the first that fails; returns pytest's status.

  Args:
    slug: the system.
    own: the name of its package.
    lines: a JSON file to write, "file:line" to the tests that run it; none if None.
    first: the tests that run first. A compiled function is shared by tests of which one
      traces it, so that all others follow.
  """
  import pytest

  plugin = _Watch(lines, own, first)
  own_tests = sorted(str(p) for p in (ROOT / "tests").glob(f"*/{slug}_*test.py"))
  shared = [str(ROOT / "tests" / f"{n}_test.py") for n in ("contract", "golden")]
  options = ["-q", "-x", "-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider"]
  os.chdir(ROOT)
  command = [*options, f"--system={slug}", *shared, *own_tests]
  return int(pytest.main(command, plugins=[plugin]))
