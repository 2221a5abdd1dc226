"""What makes XLA compile fast on the CPU: programs of tests run once.

Compiling is most of a test's time: half of it without LLVM's optimizations, and half of
what is left without XLA's MLIR, which makes a context for each program.
"""

import os

_FLAGS = (
  "--xla_backend_optimization_level=0",
  "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
  "--xla_cpu_parallel_codegen_split_count=1",
)


def use() -> None:
  """Sets XLA's flags, of this process and its children, where none are set."""
  os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
