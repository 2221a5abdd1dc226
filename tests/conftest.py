"""Settings of every test process: the CPU, a compilation cache, checked shapes."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
from tests import compile_fast  # noqa: E402

compile_fast.use()
_CACHE = Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# Tracing makes many objects that stay; looking through them took a seventh of the time.
gc.set_threshold(200_000, 20, 100)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# The cache is for the processes that tests start, which compile what others have
# compiled; here a program comes once, and its key costs more than it gives.
jax.config.update("jax_enable_compilation_cache", False)
# Nobody reads where an operation of a test's program stands.
jax.config.update("jax_include_full_tracebacks_in_locations", False)
jaxtyping.install_import_hook("attnjax", "beartype.beartype")


from tests import budget, scopes  # noqa: E402


def pytest_addoption(parser):
  """Adds --system=SLUG: the tests of one system."""
  parser.addoption(
    "--system", metavar="SLUG", help="run the tests of this system alone"
  )


def pytest_configure(config):
  """Counts what tests cost."""
  config.pluginmanager.register(budget.Budget(), "processor-budget")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """The tests of a system, or of a file, run in one process: see `tests.scopes`."""
  from xdist.scheduler import LoadScopeScheduling

  class ByScope(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
      return scopes.process(nodeid)

  return ByScope(config, log)


def pytest_collection_modifyitems(config, items):
  """Leaves out other systems' tests, and what no change since SINCE can touch."""
  revision, slug = os.environ.get("SINCE"), config.getoption("system")
  chosen = {id(item) for item in items if slug in (None, scopes.system(item.nodeid))}
  if revision:
    from tests import since

    files = since.changed(revision)
    chosen &= {id(item) for item in items if since.touched(item.nodeid, files)}
  config.hook.pytest_deselected(items=[i for i in items if id(i) not in chosen])
  items[:] = [item for item in items if id(item) in chosen]
