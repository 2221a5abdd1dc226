"""The kernels of dynamic windows (`pallas_kernels.dynamic_window`), compiled and read.

The problem is a stage of OverLoCK on ImageNet: maps of 14 x 14 pixels, 16 images, 8
groups of 16 channels. The TPU table has all bundles, which are cycles; the bodies of
loops count once: that over pixels is nearly all of them where the rows of a window have
no loop of their own (`unrolled`). The GPU table has registers, spills, shared memory
and, by kind, the instructions of a turn of the inner loop, a row of the window; `a
score` is these for a pair of pixels. The authors' own kernels are for applying weights
that memory holds, not for making them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, SHOWN

WINDOWS = (5, 7, 13, 17)
BATCH, GROUPS = 16, 8


def arguments(
  kernel: str, window: int, side: int = 14, channels: int = 16, dtype="bfloat16"
):
  """Returns the shapes of the arguments of a backend's `forward` or `backward`."""
  side = max(side, window)

  def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  pixels = BATCH, side, side, GROUPS
  q, line = shape(*pixels, channels, dtype=dtype), shape(*pixels)
  keys, bias = shape(BATCH, GROUPS, window**2, channels), shape(window**2)
  relative = shape(GROUPS, *[2 * window - 1] * 2)
  more = () if kernel == "forward" else (q, line, line)
  return q, keys, bias, relative, q, *more


def call(module, kernel: str, window: int) -> Callable:
  """Returns a backend's pass as a function of `arguments`."""
  function = getattr(module, kernel)
  return lambda *x: function(*x, window=window, tiles=None)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether all is within the estimated memory); prints it."""
  return kernel_tables.of_tpu(
    row
    for machine in ("v5e", "v6e")
    for window in (7, 13)
    for row in tpu_rows(machine, window)
  )


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills); prints it."""
  return kernel_tables.of_gpu(r for chip in SHOWN for r in gpu_rows(chip, 7))


def jobs() -> list[lowering.Job]:
  """Returns jobs for windows, maps, channels and types on all machines."""
  found = []
  for machine in (*tpu_schedule.TOPOLOGIES, *CHIPS):
    rows = gpu_rows if isinstance(machine, int) else tpu_rows
    found += [(rows, machine, window) for window in WINDOWS]
    found += [(rows, machine, 7, 56), (rows, machine, 13, 200)]
    found += [(rows, machine, 7, 14, 64), (rows, machine, 7, 14, 16, "float32")]
  return [("dynamic_window", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, window: int, *sizes) -> list[dict]:
  """Compiles both kernels for a TPU; `sizes` are those of `arguments`."""
  from pallas_kernels.dynamic_window import mosaic_tpu

  rows = []
  for kernel in ("forward", "backward"):
    given = arguments(kernel, window, *sizes)
    q, v = given[0], given[4]
    run = call(mosaic_tpu, kernel, window)
    _, kernels = tpu_schedule.compile_for(machine, run, given)
    (read,) = (x for x in kernels if x.name == f"dynamic_window_{kernel}")
    tiles = mosaic_tpu.fitting(q, v, window)
    size, estimate = sum(read.memory.values()), mosaic_tpu.estimate(tiles, q, v, window)
    row = {"machine": machine, "kernel": kernel, "window": window, "H": q.shape[4]}
    row |= {"tile": f"{tiles.rows}x{tiles.columns}", "bundles": read.bundles}
    row |= {"unit": read.bound, "slots": read.used[read.bound]}
    row |= {"MiB": round(size / 2**20, 2), "estimate": round(estimate / 2**20, 2)}
    rows.append(row | {"problems": "estimate too low" if estimate < size else ""})
  return rows


def gpu_rows(capability: int, window: int, *sizes) -> list[dict]:
  """Compiles the three kernels for a GPU; `sizes` are those of `arguments`."""
  from pallas_kernels.dynamic_window import triton_gpu

  rows = []
  for name in ("forward", "backward"):
    given = arguments(name, window, *sizes)
    q, v = given[0], given[4]
    with gpu_calls.target(capability):
      tiles = triton_gpu.fitting(q, v, window)
      traced = jax.make_jaxpr(call(triton_gpu, name, window))(*given)
    for equation in kernel_tables.launches(traced.jaxpr):
      kernel = equation.params["name"].removeprefix("dynamic_window_")
      more = {"H": q.shape[4], "dtype": q.dtype.name, "window": window}
      one, block = gpu_calls.from_equation(equation), (tiles.pixels, tiles.near)
      rows.append(kernel_tables.gpu_row(kernel, one, capability, block, **more))
  return rows
