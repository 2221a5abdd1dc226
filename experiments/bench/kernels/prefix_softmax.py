"""The prefix softmax's kernels (`pallas_kernels.prefix_softmax`), compiled and read.

The kernels do little with each value they read: memory bounds them, if they are good.
The TPU table has, for a chunk of 128 tokens, the bundles, which are cycles, of a long
grid step beside the cycles in which the chip's memory delivers a chunk's values. The
GPU table has registers, spills, shared memory and, by kind, the instructions of a
chunk's trip; `a score` is the instructions for each element of a value. No other
library has these kernels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.recurrence.prefix import Weights
from experiments.bench import gpu as machine_code
from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, SHOWN

HEADS = (64, 80, 96, 128, 192, 256)
# FEW heads leave a GPU idle, so that tokens are cut into parts; MANY fill it.
FEW, MANY = 16, 128
T = 4096
# Bytes a cycle: of memory, 819 GB/s at 1.5 GHz and 1640 GB/s at 1.75 GHz.
MEMORY = {"v5e": 546, "v6e": 937}
# The most cycles, as multiples of those that memory takes.
# Set after the first readings: they keep what was reached.
BOUND = {"forward": 1.3, "backward": 2.0}


def arguments(kernel: str, E: int, N: int = 1, dtype="bfloat16") -> tuple[Any, ...]:
  """Returns the shapes of the arguments of a backend's `forward` or `backward`."""

  def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  line, values, state = shape(1, T, N), shape(1, T, N, E, dtype=dtype), shape(1, N, E)
  weights = Weights(line, line, line, (line, line), shape(1, T, dtype="int32"))
  if kernel == "forward":
    return weights, values, state
  return weights, values, values, line, state, shape(1, N)


def call(module, kernel: str, tiles) -> Callable:
  """Returns a backend's kernel as a function of `arguments`."""
  return lambda *arrays: getattr(module, kernel)(*arrays, tiles=tiles)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether all is within BOUND of memory's cycles); prints it."""
  return kernel_tables.of_tpu(
    _tpu_row(machine, kernel, 128, machine in MEMORY)
    for machine in MEMORY
    for kernel in BOUND
  )


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills); prints it."""
  return kernel_tables.of_gpu(row for chip in SHOWN for row in gpu_rows(chip, 128))


def jobs() -> list[lowering.Job]:
  """Returns jobs for all value sizes on all machines, for some also in float32."""
  found = []
  for E in HEADS:
    found += [(tpu_rows, machine, E) for machine in tpu_schedule.TOPOLOGIES]
    found += [(gpu_rows, chip, E) for chip in CHIPS]
  found += [(gpu_rows, chip, E, "float32") for chip in CHIPS for E in (16, 64, 160)]
  found += [(gpu_rows, chip, 128, "bfloat16", MANY) for chip in CHIPS]
  return [("prefix_softmax", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, E: int) -> list[dict]:
  """Compiles both kernels for a TPU."""
  return [_tpu_row(machine, kernel, E, False) for kernel in BOUND]


def _tpu_row(machine: str, kernel: str, E: int, compare: bool) -> dict:
  from pallas_kernels.prefix_softmax import mosaic_tpu

  given = arguments(kernel, E)
  tiles = mosaic_tpu.fitting(given[1])
  _, kernels = tpu_schedule.compile_for(machine, call(mosaic_tpu, kernel, tiles), given)
  (read,) = (x for x in kernels if x.name == f"prefix_softmax_{kernel}")
  size = sum(read.memory.values())
  estimate = mosaic_tpu.estimate(tiles, E, "bfloat16")
  chunk = read.bundles * mosaic_tpu.LANES / tiles.rows
  row = {"machine": machine, "kernel": kernel, "E": E, "rows": tiles.rows}
  row |= {"bundles": read.bundles, "a chunk": round(chunk, 1)}
  problem = "estimate too low" if estimate < size else ""
  if compare:
    # Values and results, in the backward pass also cotangents, of two bytes an element.
    arrays = 2 if kernel == "forward" else 3
    memory = 2 * arrays * E * mosaic_tpu.LANES / MEMORY[machine]
    row |= {"memory": round(memory, 1), "ratio": round(chunk / memory, 2)}
    problem = problem or ("slow" if chunk > BOUND[kernel] * memory else "")
  row |= {"unit": read.bound, "slots": read.used[read.bound]}
  row |= {"MiB": round(size / 2**20, 2), "estimate": round(estimate / 2**20, 2)}
  return row | {"problems": problem}


def gpu_rows(capability: int, E: int, dtype="bfloat16", N: int = FEW) -> list[dict]:
  """Compiles both kernels for a GPU."""
  from pallas_kernels.flash.triton_gpu.tiles import limit
  from pallas_kernels.prefix_softmax import triton_gpu

  rows = []
  for kernel in BOUND:
    given = arguments(kernel, E, N=N, dtype=dtype)
    with gpu_calls.target(capability):
      tiles = triton_gpu.fitting(given[1])
      traced = jax.make_jaxpr(call(triton_gpu, kernel, tiles))(*given)
    (found,) = kernel_tables.launches(traced.jaxpr)
    one, block = gpu_calls.from_equation(found), (tiles.size, tiles.width)
    more = {"E": E, "dtype": dtype, "parts": tiles.parts}
    row = machine_code.row("attnjax", kernel, one, capability, block, **more)
    # The limit of the smallest chip: tiles are not chosen by memory.
    row["estimate"] = limit(89)
    row["problems"] = machine_code.problems(row, row["estimate"])
    rows.append(row)
  return rows
