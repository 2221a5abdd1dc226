"""Chunked linear attention's kernels (`pallas_kernels.decayed_linear`), compiled, read.

The TPU table has the bundles, which are cycles, that a token of a head takes, the least
that the matrix units need for its products, their ratio, and the cycles in which the
chip's memory delivers what is read and written: where that is more, memory bounds.
No other library has such a kernel for TPUs.

The GPU table has, beside the kernels of flash-linear-attention with its own tiles,
the instructions that warps issue for a token of a head: all of a program, its loop as
often as it runs. Where the states are computed in two passes, "ends" is the first one.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import gpu as machine_code
from experiments.bench import (
  gpu_calls,
  gpu_code,
  kernel_tables,
  linear_peer,
  lowering,
  tpu_schedule,
)
from experiments.bench.kernel_tables import CHIPS, MACS

HEADS = ((64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256))
CAPABILITIES = (80, 90)  # of the table beside fla's kernels
KERNELS = ("forward", "states", "backward")
# N heads get their states in two passes where they are no wider than 128; MANY heads
# are enough for one pass.
T, N, MANY = 4096, 16, 64
# Bytes a cycle of the memory: 819 GB/s at 1.5 GHz and 1640 GB/s at 1.75 GHz.
MEMORY = {"v5e": 546, "v6e": 937}
# The least fraction of the matrix units' time that must be used on v5e.
USED = 0.5


def call(
  module, direction: str, H: int, E: int, dtype="bfloat16", capability=0, heads: int = N
):
  """Returns (a backend's forward or backward pass, the shapes of its arguments)."""

  def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  q, v = (shape(1, T, heads, size, dtype=dtype) for size in (H, E))
  state = shape(1, heads, H, E)
  x = q, q, v, shape(1, T, heads), state
  which = capability or tpu_schedule.TOPOLOGIES["v5e"][1]
  how: dict[str, Any] = {"scale": 1.0, "tiles": module.defaults(q, q, v, which)}
  if direction == "forward":
    return functools.partial(module.forward, **how), (*x, None)
  how["decay"] = True
  return functools.partial(module.backward, **how), (*x, None, v, state)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether v5e's matrix units are used enough); prints it."""
  rows, fine = kernel_tables.of_tpu(row for m in MACS for row in _tpu_rows(m, 128, 128))
  # The states' pass has one product for all that it reads: memory bounds it.
  used = [r["used"] for r in rows if (r["machine"], r["states"]) == ("v5e", "")]
  return rows, fine and min(used) >= USED


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills or needs more than fla); prints it.

  Fla computes its states in one pass: the first of our two is left out of the sums.
  """
  rows, holds = [], True
  for capability in CAPABILITIES:
    ours = list(_gpu_rows(capability, 128, 128))
    theirs = [
      _gpu_row("fla", part, one, 64, width, width, 128, 128, capability)
      for part, one, width in linear_peer.calls(capability, N)
    ]
    sums = (
      sum(row["a token"] for row in part if "ends" not in row["part"])
      for part in (ours, theirs)
    )
    holds &= not theirs or next(sums) <= next(sums)
    holds &= not any(row["problems"] for row in ours)
    rows += ours + theirs
  print(machine_code.show(rows))
  return rows, holds


def jobs() -> list[lowering.Job]:
  """Returns jobs for all head sizes on all machines, for two also in other types."""
  found = []
  for H, E in HEADS:
    found += [(tpu_rows, machine, H, E) for machine in tpu_schedule.TOPOLOGIES]
    found += [(gpu_rows, chip, H, E) for chip in CHIPS]
  for chip in CHIPS:
    for dtype in ("float32", "float16"):
      found += [(gpu_rows, chip, size, size, dtype) for size in (64, 256)]
    found.append((gpu_rows, chip, 128, 128, "bfloat16", "states", MANY))
  return [("decayed_linear", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, H: int, E: int) -> list[dict]:
  """Compiles every kernel for a TPU."""
  return list(_tpu_rows(machine, H, E))


def gpu_rows(
  capability: int, H: int, E: int, dtype="bfloat16", only: str = "", heads: int = N
) -> list[dict]:
  """Compiles every kernel for a GPU, or those with `only` in their names."""
  return list(_gpu_rows(capability, H, E, dtype, only, heads))


def _tpu_rows(machine: str, H: int, E: int) -> Iterator[dict]:
  from pallas_kernels.decayed_linear import mosaic_tpu

  for direction in ("forward", "backward"):
    function, given = call(mosaic_tpu, direction, H, E)
    tiles = function.keywords["tiles"]
    tile = getattr(tiles, direction)
    estimate = mosaic_tpu.estimate(tile, direction, given[0], given[2])
    _, kernels = tpu_schedule.compile_for(machine, function, given)
    for read in kernels:
      kernel = read.name.removeprefix("decayed_linear_")
      if kernel not in KERNELS:
        continue
      tokens = tile.chunk * tile.heads
      size = sum(read.memory.values())
      row = {"machine": machine, "kernel": kernel, "H": H, "E": E}
      row |= {"chunk": tile.chunk, "heads": tile.heads, "bundles": read.bundles}
      row |= {"a token": round(read.bundles / tokens, 2)}
      if machine in MACS:
        least = _products(kernel, tile, H, E) / MACS[machine]
        row |= {
          "products": round(least, 2),
          "used": round(least * tokens / read.bundles, 3),
          "memory": round(_bytes(kernel, tile, H, E) / MEMORY[machine], 2),
        }
      row |= {"slots": read.used["MATMUL"], "unit": read.bound}
      row |= {"MiB": round(size / 2**20, 1), "estimate": round(estimate / 2**20, 1)}
      row["states"] = "pass" if kernel == "states" else ""
      yield row | {"problems": "estimate too low" if estimate < size else ""}


def _products(kernel: str, tile, H: int, E: int) -> float:
  """Returns multiplications a token and head: within its chunk, and with the state."""
  parts = tile.chunk // tile.inner
  seen = tile.inner * (parts + 1) / 2
  within = {"forward": seen * (H + E), "states": 0, "backward": seen * (3 * H + 2 * E)}
  return within[kernel] + {"forward": 2, "states": 1, "backward": 4}[kernel] * H * E


def _bytes(kernel: str, tile, H: int, E: int) -> float:
  """Returns the bytes that are read and written, a token and head."""
  state = H * E / tile.chunk
  return (
    2
    * {
      "forward": 2 * H + 2 * E,
      "states": H + E + state,
      "backward": 4 * H + 3 * E + state,
    }[kernel]
  )


def _gpu_rows(
  capability: int, H: int, E: int, dtype="bfloat16", only: str = "", heads: int = N
) -> Iterator[dict]:
  from pallas_kernels.decayed_linear import triton_gpu

  found: dict[str, Any] = {}
  for direction in ("forward", "backward"):
    function, given = call(triton_gpu, direction, H, E, dtype, capability, heads)
    with gpu_calls.target(capability):
      traced = jax.make_jaxpr(function)(*given)
    for equation in traced.jaxpr.eqns:
      if equation.primitive.name == "triton_kernel_call":
        one: Any = gpu_calls.from_equation(equation)
        name = equation.params["name"].removeprefix("decayed_linear_")
        name += " back" if one.constants["F"].reverse else ""
        if only in name:
          found[name] = one
  tiles = function.keywords["tiles"]
  for name, one in found.items():
    form = one.constants["F"]
    row = _gpu_row("attnjax", name, one, form.chunk, form.tile_h, form.tile_e, H, E,
                   capability)  # fmt: skip
    kernel = name.split()[0].replace("ends", "states")
    row["estimate"] = triton_gpu.estimate(tiles, kernel, dtype)
    faults = {
      "spills": row["stack"] or row["spills"],
      "no tensor cores": not row["tensor"],
      "products wait": row["serialized"],
      "estimate too low": row["shared"] > row["estimate"],
    }
    yield row | {"problems": ", ".join(k for k, fault in faults.items() if fault)}


def _gpu_row(whose, part, one, chunk, tile_h, tile_e, H, E, capability) -> dict:
  compiled = one.compile(capability)
  found = gpu_code.read(compiled.ptx)
  loops, warps = found.pop("loops"), one.options["num_warps"]
  down, along = -(-H // tile_h), -(-E // tile_e)
  kind = part.split()[0]
  # A program of the states loops over the chunks, all others belong to one chunk.
  trips = {"output": down, "values": down, "keys": along}.get(kind, 1)
  programs = {"output": along, "values": along, "keys": down}.get(kind, down * along)
  turn = sum(loop["total"] for loop in loops)
  issued = turn
  if kind not in ("ends", "states"):
    issued = found["instructions"] + (trips - 1) * turn
  return {
    "kernel": whose,
    "part": part,
    "chip": f"sm_{capability}",
    "H": H,
    "E": E,
    "tile": f"{chunk}x{tile_h}x{tile_e}",
    "warps": warps,
    "stages": one.options["num_stages"],
    **found,
    "shared": compiled.shared,
    "resident": machine_code.occupancy(
      capability, found["registers"], warps, compiled.shared
    ),
    "tensor": len(re.findall(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync", compiled.ptx)),
    "a token": round(issued * warps * programs / chunk, 1),
  }
