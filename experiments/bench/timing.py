"""Times several functions in turn, so that a busy moment hits all of them."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Time:
  """Seconds a call.

  Attributes:
    median: the median of all calls.
    least: the fastest call.
    calls: number of timed calls.
  """

  median: float
  least: float
  calls: int


def race(
  runs: Mapping[str, Callable[[], object]], *, seconds: float = 10.0, most: int = 15
) -> dict[str, Time]:
  """Measures the time of each run, with an untimed call before each timed one.

  Args:
    runs: functions that return when their work is done.
    seconds: the budget of all runs together, once they are compiled.
    most: calls of each, at most; at least 3.
  """
  for run in runs.values():
    run()
  found: dict[str, list[float]] = {name: [] for name in runs}
  stop = time.perf_counter() + seconds
  for turn in range(most):
    if turn >= 3 and time.perf_counter() > stop:
      break
    for name, run in runs.items():
      run()  # so that caches and threads are its own
      start = time.perf_counter()
      run()
      found[name].append(time.perf_counter() - start)
  return {
    name: Time(statistics.median(times), min(times), len(times))
    for name, times in found.items()
  }


def forward(function: Callable, arrays: Sequence[jax.Array]) -> Callable[[], object]:
  """Returns a run of the function, compiled."""
  run = jax.jit(function)
  return lambda: jax.block_until_ready(run(*arrays))


def both(
  function: Callable, arrays: Sequence[jax.Array], g: jax.Array
) -> Callable[[], object]:
  """Returns a run of the value and the gradients of sum(out g)."""

  def loss(*arrays):
    return jnp.sum(function(*arrays).astype(jnp.float32) * g)

  return forward(jax.value_and_grad(loss, tuple(range(len(arrays)))), arrays)
