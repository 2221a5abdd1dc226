"""Costs of compiled functions: seconds of the processor, bytes of memory."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(
  run: Callable, *arguments: Any, repeats: int = 3, least: float = 0.1
) -> float:
  """Returns the least CPU seconds of a call, on all cores, after it was compiled.

  Only this process is measured: other work on the machine hardly counts. The clock of a
  process lags by milliseconds on a busy machine, so that calls are timed together.

  Args:
    run: the function, which is compiled.
    *arguments: of the function.
    repeats: how often it is measured; the least mean counts.
    least: seconds that the calls of a measurement take at least.
  """
  run = jax.jit(run)
  jax.block_until_ready(run(*arguments))
  best = math.inf
  for _ in range(repeats):
    start, taken, calls = time.process_time(), 0.0, 0
    while taken < least:
      jax.block_until_ready(run(*arguments))
      taken, calls = time.process_time() - start, calls + 1
    best = min(best, taken / calls)
  return best


def temporary_bytes(run: Callable, *arguments: Any) -> float:
  """Returns the bytes beside arguments and results, as XLA plans them; nothing is run.

  Args:
    run: the function, which is compiled.
    *arguments: arrays or `jax.ShapeDtypeStruct`.
  """
  compiled: Any = jax.jit(run).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes
