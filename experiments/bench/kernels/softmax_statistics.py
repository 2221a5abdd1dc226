"""The kernels of softmax statistics (`pallas_kernels.softmax_statistics`), compiled.

The problem is causal, in bfloat16. The TPU table has the bundles, which are cycles, of
a grid step beside those of the flash kernel whose loop it is; the GPU table registers,
spills, shared memory and the instructions of the loop over full blocks. No other
library has these kernels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.masks import Causal
from attnjax.core.scores import Scores
from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, SHOWN
from pallas_kernels import softmax_statistics

KERNELS = ("columns", "rows")
HEADS = (64, 128, 256)
T, GROUP = 4096, 4


def call(which: str, impl: str, H: int, N: int) -> tuple[Callable, tuple[Any, ...]]:
  """Returns (a function of q, k and lse to statistics by a backend, their shapes)."""
  q, k = (jax.ShapeDtypeStruct((1, T, n, H), jnp.bfloat16) for n in (N, N // GROUP))
  lse = jax.ShapeDtypeStruct((1, T, N), jnp.float32)

  def run(q, k, lse):
    made = softmax_statistics.prepared(which, q, k, Scores(Causal()), impl=impl)
    return made(q, k, lse, scale=H**-0.5)

  return run, (q, k, lse)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether all compile within their memory); prints it."""
  return kernel_tables.of_tpu(r for m in ("v5e", "v6e") for r in tpu_rows(m, 128))


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills); prints it."""
  return kernel_tables.of_gpu(r for chip in SHOWN for r in gpu_rows(chip, 128))


def jobs() -> list[lowering.Job]:
  """Returns jobs for all sizes of heads on all machines."""
  found = []
  for H in HEADS:
    found += [(tpu_rows, machine, H) for machine in tpu_schedule.TOPOLOGIES]
    found += [(gpu_rows, chip, H) for chip in CHIPS]
  return [("softmax_statistics", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, H: int) -> list[dict]:
  """Compiles both kernels for a TPU."""
  return [_tpu_row(machine, which, H) for which in KERNELS]


def _tpu_row(machine: str, which: str, H: int) -> dict:
  # As many heads as fill more than fast memory: XLA would put whole arrays there.
  function, shapes = call(which, "pallas", H, 64)
  _, kernels = tpu_schedule.compile_for(machine, function, shapes)
  (read,) = (x for x in kernels if x.name == f"softmax_{which}")
  row = {"machine": machine, "kernel": which, "H": H, "bundles": read.bundles}
  return row | kernel_tables.tpu_end(machine, read)


def gpu_rows(capability: int, H: int) -> list[dict]:
  """Compiles both kernels for a GPU."""
  rows = []
  for which in KERNELS:
    function, shapes = call(which, "triton", H, 16)
    with gpu_calls.target(capability):
      equation = next(kernel_tables.launches(jax.make_jaxpr(function)(*shapes).jaxpr))
    one = gpu_calls.from_equation(equation)
    form = one.constants["F"]
    block = form.block_q, form.block_k
    rows.append(kernel_tables.gpu_row(which, one, capability, block, H=H))
  return rows
