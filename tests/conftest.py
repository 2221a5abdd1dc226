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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """The tests of a file run in one process: what they share is compiled once."""
  from xdist.scheduler import LoadScopeScheduling

  class OfFiles(LoadScopeScheduling):
    """Lowering waits for child processes, shares nothing, and fills what is left."""

    def _split_scope(self, nodeid: str) -> str:
      file = nodeid.partition("::")[0]
      if file.startswith("tests/data/"):
        return "data"
      return nodeid if file.endswith("lowering_test.py") else file

  return OfFiles(config, log)
