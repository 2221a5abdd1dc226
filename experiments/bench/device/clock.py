"""Times of calls on the device, by the clock.

Compiling takes most of the time there is, so programs are compiled several at a time,
and only then timed, one after another, with nothing beside them.
"""

import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

# Programs that are compiled at the same time, and that are compiled before the first
# of them is timed: results come early.
THREADS, TOGETHER = 12, 24
# Programs whose arrays have more bytes run alone while others are being compiled.
LARGE = 2e9
_ALONE = threading.Lock()


def prepare(programs: dict[Any, Callable[[], Any]]) -> dict[Any, Any]:
  """Calls all functions, several at a time; returns what each returned or raised."""

  def called(make):
    try:
      return make()
    except Exception as problem:  # is raised where the result is asked for
      return problem

  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    return dict(zip(programs, pool.map(called, programs.values())))


def ready(case: dict, run, calls: int) -> Callable[[], float]:
  """Compiles a program and runs it once; returns a function that times a call.

  The program is a loop on the device, in which each call needs the one before.

  Args:
    case: an entry of the manifest.
    run: {input: array} to a pytree of arrays.
    calls: calls in the loop.
  """
  import jax
  import jax.numpy as jnp

  def loop(x):
    def body(q, _):
      out = jax.lax.optimization_barrier(run(x | {"q": q}))  # all of it is computed
      firsts = [a.ravel()[0].astype(jnp.float32) for a in jax.tree.leaves(out)]
      one = jnp.stack(firsts).sum()
      return q.at[0, 0, 0, 0].set(one.astype(q.dtype)), None

    return jax.lax.scan(body, x["q"], length=calls)[0][0, 0, 0, 0]

  draw = jax.jit(functools.partial(drawn, case["inputs"])).lower().compile()
  compiled = jax.jit(loop).lower(jax.eval_shape(draw)).compile()

  def once(x):
    compiled(x).block_until_ready()

  if case["bytes"] > LARGE:
    with _ALONE:
      once(draw())
  else:
    once(draw())

  def seconds() -> float:
    x = draw()
    return best(lambda: once(x), calls)

  return seconds


def drawn(inputs: dict) -> dict:
  """Draws a case's inputs on the device; all batches are equal."""
  import jax
  import jax.numpy as jnp

  def one(key, shape, dtype, draw):
    x = jax.random.normal(key, (1, *shape[1:]), dtype)
    return jnp.repeat(-jnp.abs(x) * 0.1 if draw == "decay" else x, shape[0], axis=0)

  keys = jax.random.split(jax.random.key(0), len(inputs))
  return {n: one(k, *i) for k, (n, i) in zip(keys, inputs.items(), strict=True)}


def best(function, calls: int) -> float:
  """Returns the least seconds of a call in five runs, after one that does not count."""
  times = []
  for _ in range(6):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return min(times[1:]) / calls
