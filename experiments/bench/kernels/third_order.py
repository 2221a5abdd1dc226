"""The third-order kernels (`pallas_kernels.third_order`), compiled and read.

The TPU table has the bundles, which are cycles, of 8 keys of the first stream with a
tile of rows and one of the second stream that need no mask. `products` has the cycles
that the matrix units take for these alone at their nominal rate: 2 products of tiles
forward, 3 for the queries, 4 for the keys. The GPU table has registers, spills, shared
memory and, by kind, the instructions of a turn of the inner loop; `a score` is these
for a score. No other library has these kernels: the code of the 2-simplicial paper is
for windows alone.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnjax.core.third_order import Sight
from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, MACS, SHOWN

HEADS = (64, 80, 128, 256)
T = 2048
SIGHTS = {
  "causal": Sight(0.1, True),
  # Of the 2-simplicial paper, whose 64 query heads read one head of keys.
  "windows": Sight(0.1, True, (32, 512)),
}
# Products of matrices of a pair of tiles.
PRODUCTS = {"forward": 2, "queries": 3, "keys": 4}
# The most cycles, as multiples of those of the products.
# Set after the first readings: they keep what was reached.
BOUND = {
  "v5e": {"forward": 1.6, "queries": 1.3, "keys": 1.3},
  "v6e": {"forward": 3.2, "queries": 2.6, "keys": 2.6},
}


def arguments(kernel: str, H: int, N: int, K: int, dtype="bfloat16", packed=False):
  """Returns the shapes of the arguments of a backend's `forward` or `backward`."""

  def shape(*sizes, dtype=dtype):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  q, k, line = shape(1, T, N, H), shape(1, T, K, H), shape(1, T, N, dtype="float32")
  ids = (shape(1, T, dtype="int32"),) * 2 if packed else None
  data = ids, shape(dtype="int32")
  if kernel == "forward":
    return q, k, k, k, k, data
  return q, k, k, k, k, q, line, line, line, data


def call(module, kernel: str, sight: Sight, tiles) -> Callable:
  """Returns a backend's pass as a function of `arguments`."""
  name = "forward" if kernel == "forward" else "backward"
  return lambda *x: getattr(module, name)(*x, sight=sight, tiles=tiles)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether all is within BOUND of the products); prints it."""
  return kernel_tables.of_tpu(
    row for machine in MACS for row in tpu_rows(machine, 128, compare=True)
  )


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills); prints it."""
  return kernel_tables.of_gpu(r for chip in SHOWN for r in gpu_rows(chip, 128))


def jobs() -> list[lowering.Job]:
  """Returns jobs for all sizes of heads on all machines, for some also in float32."""
  found = []
  for H in HEADS:
    found += [(tpu_rows, machine, H) for machine in tpu_schedule.TOPOLOGIES]
    found += [(gpu_rows, chip, H) for chip in CHIPS]
  for case in ("windows", "packed"):
    found += [(tpu_rows, "v5e", 128, case)]
    found += [(gpu_rows, chip, 128, case) for chip in CHIPS]
  found += [(tpu_rows, "v5e", 128, "causal", "float32")]
  found += [
    (gpu_rows, chip, H, "causal", "float32") for chip in CHIPS for H in (32, 128)
  ]
  return [("third_order", functools.partial(*job)) for job in found]


def tpu_rows(
  machine: str, H: int, case: str = "causal", dtype="bfloat16", compare: bool = False
) -> list[dict]:
  """Compiles all kernels for a TPU."""
  from pallas_kernels.third_order import mosaic_tpu

  sight, N = SIGHTS.get(case, SIGHTS["causal"]), 64 if case == "windows" else 4
  K, rows = 1 if case == "windows" else 4, []
  for name in ("forward", "backward"):
    given = arguments(name, H, N, K, dtype, case == "packed")
    tiles = mosaic_tpu.fitting(*given[:5])
    run = call(mosaic_tpu, name, sight, tiles)
    _, kernels = tpu_schedule.compile_for(machine, run, given)
    kernels = {x.name.removeprefix("third_order_"): x for x in kernels}
    for kernel in PRODUCTS:
      if kernel in kernels:
        given = machine, kernel, kernels[kernel], tiles, H, dtype, compare
        rows.append(_tpu_row(*given) | {"case": case})
  return rows


def _tpu_row(machine, kernel: str, read, tiles, H: int, dtype, compare: bool) -> dict:
  from pallas_kernels.third_order import mosaic_tpu

  size = sum(read.memory.values())
  estimate = mosaic_tpu.estimate(tiles, H, H, dtype)
  tile = f"{tiles.rows}x{tiles.first}x{tiles.second}"
  row = {"machine": machine, "kernel": kernel, "H": H, "tile": tile}
  problem = "estimate too low" if estimate < size else ""
  row |= {"total": read.bundles}
  if compare:
    # The loop's turn over tiles without a mask: no other branch has so much in it.
    turn = max(r.bundles for r in read.regions if not r.inside)
    products = PRODUCTS[kernel] * 8 * tiles.rows * tiles.second * 128 / MACS[machine]
    row |= {
      "bundles": turn,
      "products": round(products),
      "ratio": round(turn / products, 2),
    }
    problem = problem or ("slow" if turn > BOUND[machine][kernel] * products else "")
  row |= {"unit": read.bound, "slots": read.used[read.bound]}
  row |= {"MiB": round(size / 2**20, 2), "estimate": round(estimate / 2**20, 2)}
  return row | {"problems": problem}


def gpu_rows(
  capability: int, H: int, case: str = "causal", dtype="bfloat16"
) -> list[dict]:
  """Compiles all kernels for a GPU."""
  from pallas_kernels.third_order import triton_gpu

  sight, N = SIGHTS.get(case, SIGHTS["causal"]), 64 if case == "windows" else 4
  K, rows = 1 if case == "windows" else 4, []
  for name in ("forward", "backward"):
    given = arguments(name, H, N, K, dtype, case == "packed")
    with gpu_calls.target(capability):
      tiles = triton_gpu.fitting(*given[:5])
      traced = jax.make_jaxpr(call(triton_gpu, name, sight, tiles))(*given)
    kernels = {
      equation.params["name"].removeprefix("third_order_"): equation
      for equation in kernel_tables.launches(traced.jaxpr)
    }
    for kernel, equation in kernels.items():
      one, tile = gpu_calls.from_equation(equation), getattr(tiles, kernel)
      more = {"H": H, "dtype": dtype, "case": case}
      block = tile.rows, tile.second
      rows.append(kernel_tables.gpu_row(kernel, one, capability, block, **more))
  return rows
