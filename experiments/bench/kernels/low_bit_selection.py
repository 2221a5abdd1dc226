"""The kernels of low-bit selection (`pallas_kernels.low_bit_selection`), compiled.

The problem is the estimation of SALE over a causal prompt, blocks of 64 queries and 32
keys. The TPU table has the bundles, which are cycles, of a grid step of 512 queries and
4096 keys, and those of a tile of 128 x 128 scores; the GPU table registers, spills,
shared memory and the instructions of the loop over keys. No other library has these
kernels: SALE's own is for 4-bit tensor cores of one generation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, SHOWN
from pallas_kernels import low_bit_selection

HEADS = (64, 128, 256)
T, GROUP = 8192, 4
BLOCK_Q, BLOCK_K = 64, 32


def call(impl: str, H: int, N: int, rounded: bool) -> tuple[Callable, tuple[Any, ...]]:
  """Returns (the selection by a backend, the shapes of its arrays)."""
  q, k = (jax.ShapeDtypeStruct((1, T, n, H), jnp.int8) for n in (N, N // GROUP))
  wide, narrow = (jax.ShapeDtypeStruct(x.shape[:3], jnp.float32) for x in (q, k))
  last = jax.ShapeDtypeStruct((1, T // BLOCK_Q), jnp.int32)
  sizes = {"block_q": BLOCK_Q, "block_k": BLOCK_K, "rounded": rounded}

  def run(*arrays):
    return low_bit_selection.prepared(*arrays[:2], impl=impl, **sizes)(*arrays)

  return run, (q, k, wide, narrow, wide, wide, last)


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
  return [("low_bit_selection", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, H: int) -> list[dict]:
  """Compiles the kernel for a TPU, with scales of tokens and of groups."""
  return [_tpu_row(machine, H, rounded) for rounded in (False, True)]


def _tpu_row(machine: str, H: int, rounded: bool) -> dict:
  # As many heads as fill more than fast memory: XLA would put whole arrays there.
  function, shapes = call("pallas", H, 64, rounded)
  _, kernels = tpu_schedule.compile_for(machine, function, shapes)
  (read,) = (x for x in kernels if x.name == "low_bit_selection")
  row = {"machine": machine, "kernel": _name(rounded), "H": H, "bundles": read.bundles}
  tiles = 8 * BLOCK_Q * 128 * BLOCK_K // 128**2
  row |= {"a tile": round(read.bundles / tiles, 1)}
  return row | kernel_tables.tpu_end(machine, read)


def _name(rounded: bool) -> str:
  return "groups" if rounded else "tokens"


def gpu_rows(capability: int, H: int) -> list[dict]:
  """Compiles the kernel for a GPU, with scales of tokens and of groups."""
  rows = []
  for rounded in (False, True):
    function, shapes = call("triton", H, 16, rounded)
    with gpu_calls.target(capability):
      equation = next(kernel_tables.launches(jax.make_jaxpr(function)(*shapes).jaxpr))
    one = gpu_calls.from_equation(equation)
    block = one.constants["ROWS"], one.constants["COLUMNS"]
    name = _name(rounded)
    rows.append(kernel_tables.gpu_row(name, one, capability, block, H=H))
  return rows
