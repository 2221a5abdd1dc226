"""Settings of every test process: the CPU, a compilation cache, checked shapes."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the suite's time: half of it without LLVM's optimizations, and
# half of what is left without XLA's MLIR, which makes a context for each program.
_FAST = (
  "--xla_backend_optimization_level=0",
  "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
  "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(_FAST))
_CACHE = Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jaxtyping.install_import_hook("attnjax", "beartype.beartype")


from tests import budget, scopes  # noqa: E402


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
  """Leaves out what a change since the revision SINCE cannot touch."""
  revision = os.environ.get("SINCE")
  if not revision:
    return
  from tests import since

  files = since.changed(revision)
  chosen = {id(item) for item in items if since.touched(item.nodeid, files)}
  config.hook.pytest_deselected(items=[i for i in items if id(i) not in chosen])
  items[:] = [item for item in items if id(item) in chosen]
