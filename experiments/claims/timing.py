"""Costs of compiled functions: seconds of the processor, bytes of memory."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(run: Callable, *arguments: Any, repeats: int = 3) -> float:
  """Returns the least CPU seconds of a call, on all cores, after it was compiled.

  Only this process is measured: other work on the machine hardly counts.
  """
  run = jax.jit(run)
  jax.block_until_ready(run(*arguments))
  best = math.inf
  for _ in range(repeats):
    start = time.process_time()
    jax.block_until_ready(run(*arguments))
    best = min(best, time.process_time() - start)
  return best


def temporary_bytes(run: Callable, *arguments: Any) -> float:
  """Returns the bytes beside arguments and results, as XLA plans them; nothing is run.

  Args:
    run: the function, which is compiled.
    *arguments: arrays or `jax.ShapeDtypeStruct`.
  """
  compiled: Any = jax.jit(run).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes
