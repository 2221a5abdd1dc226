"""The kernels of InfoNCE (`pallas_kernels.contrastive`), compiled and read.

The TPU table has the bundles, which are cycles, of a grid step between the first and
the last of a tile of rows that holds no positive pair, and in `products` the cycles
that the matrix units take for its products alone at their nominal rate: 1 forward, 2
backward. The GPU table has registers, spills, shared memory and, by kind,
the instructions of a turn of the inner loop over elements of a row. No other library
has these kernels for TPUs; the code of arXiv:2410.17243 is for NVIDIA GPUs, forward and
backward of one direction, with atomic sums.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.contrastive import Marks, Slopes
from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, MACS, SHOWN

SIZES = (64, 512, 1152)
ROWS = 4096
PRODUCTS = {"forward": 1, "backward": 2}
# The most cycles, as multiples of those of the products, with 512 elements a row. Set
# after the first readings: they keep what was reached.
BOUND = {"v5e": 1.2, "v6e": 2.6}
CASES = ("diagonal", "groups", "mask")


def arguments(kernel: str, D: int, case: str, dtype="bfloat16") -> tuple[Any, ...]:
  """Returns the shapes of the arguments of a backend's `forward` or `backward`."""

  def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  x, line = shape(ROWS, D, dtype=dtype), shape(ROWS, dtype="int32")
  marks = Marks(line, line if case == "groups" else None)
  mask = shape(ROWS, ROWS, dtype="int8") if case == "mask" else None
  given = x, x, shape(), marks, marks, mask
  slopes = Slopes(*(shape(ROWS) for _ in range(3)))
  return given if kernel == "forward" else (*given, slopes, slopes)


def call(module, kernel: str, tiles) -> Callable:
  """Returns a backend's pass, of both directions, as a function of `arguments`."""
  how = {"positive": True} if kernel == "forward" else {"uses": (True, True)}
  return functools.partial(getattr(module, kernel), tiles=tiles, **how)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether all is within BOUND of the products); prints it."""
  return kernel_tables.of_tpu(
    row for machine in MACS for row in tpu_rows(machine, 512, compare=True)
  )


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills); prints it."""
  return kernel_tables.of_gpu(r for chip in SHOWN for r in gpu_rows(chip, 512))


def jobs() -> list[lowering.Job]:
  """Returns jobs for all sizes of rows on all machines, for some also in float32."""
  found = []
  for D in SIZES:
    found += [(tpu_rows, machine, D) for machine in tpu_schedule.TOPOLOGIES]
    found += [(gpu_rows, chip, D) for chip in CHIPS]
  for case in CASES[1:]:
    found += [(tpu_rows, "v5e", 512, case)]
    found += [(gpu_rows, chip, 512, case) for chip in CHIPS]
  found += [(tpu_rows, "v5e", 512, "diagonal", "float32")]
  found += [(gpu_rows, chip, D, "diagonal", "float32") for chip in CHIPS for D in SIZES]
  return [("contrastive", functools.partial(*job)) for job in found]


def tpu_rows(
  machine: str, D: int, case="diagonal", dtype="bfloat16", compare=False, only=""
) -> list[dict]:
  """Compiles both kernels for a TPU, or one of them."""
  from pallas_kernels.contrastive import mosaic_tpu

  rows = []
  for kernel in [only] if only else PRODUCTS:
    given = arguments(kernel, D, case, dtype)
    tiles = mosaic_tpu.fitting(*given[:2])
    run = call(mosaic_tpu, kernel, tiles)
    _, kernels = tpu_schedule.compile_for(machine, run, given)
    (read,) = (x for x in kernels if x.name == f"contrastive_{kernel}")
    size, estimate = sum(read.memory.values()), mosaic_tpu.estimate(tiles, D, dtype)
    tile = f"{tiles.rows}x{tiles.columns}"
    row = {"machine": machine, "kernel": kernel, "D": D, "tile": tile}
    # Branches are those of the first and of the last step, and of positive pairs.
    branches = sum(region.bundles for region in read.regions if not region.inside)
    bundles = read.bundles - branches
    row |= {"total": read.bundles, "bundles": bundles}
    problem = "estimate too low" if estimate < size else ""
    if compare:
      least = PRODUCTS[kernel] * tiles.rows * tiles.columns * D / MACS[machine]
      ratio = bundles / least
      row |= {"products": round(least), "ratio": round(ratio, 2)}
      problem = problem or ("slow" if ratio > BOUND[machine] else "")
    row |= {"unit": read.bound, "slots": read.used[read.bound]}
    row |= {"MiB": round(size / 2**20, 2), "estimate": round(estimate / 2**20, 2)}
    rows.append(row | {"case": case, "problems": problem})
  return rows


def gpu_rows(
  capability: int, D: int, case="diagonal", dtype="bfloat16", only: str = ""
) -> list[dict]:
  """Compiles both kernels for a GPU, or one of them."""
  from pallas_kernels.contrastive import triton_gpu

  rows = []
  for kernel in [only] if only else PRODUCTS:
    given = arguments(kernel, D, case, dtype)
    with gpu_calls.target(capability):
      tiles = triton_gpu.fitting(*given[:2])
      traced = jax.make_jaxpr(call(triton_gpu, kernel, tiles))(*given)
    (found,) = kernel_tables.launches(traced.jaxpr)
    one, tile = gpu_calls.from_equation(found), getattr(tiles, kernel)
    more = {"D": D, "dtype": dtype, "case": case}
    block = tile.rows, tile.columns
    rows.append(kernel_tables.gpu_row(kernel, one, capability, block, **more))
  return rows
