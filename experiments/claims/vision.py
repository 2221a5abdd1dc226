"""Processor seconds of functions, as the claims that import this measured them.

`experiments.claims.timing` is for new ones: its clock does not lag in short calls.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(run: Callable[[], Any], repeats: int) -> float:
  """Returns CPU seconds a run, on all cores: the least mean of `repeats` runs.

  Only this process is measured: other work on the machine hardly counts.
  """
  jax.block_until_ready(run())
  found = []
  for _ in range(3):
    start = time.process_time()
    for _ in range(repeats):
      jax.block_until_ready(run())
    found.append((time.process_time() - start) / repeats)
  return min(found)


def jitted(function: Callable, *arguments) -> Callable[[], Any]:
  """Returns the compiled function bound to its arguments, to be timed."""
  return functools.partial(jax.jit(function), *arguments)
