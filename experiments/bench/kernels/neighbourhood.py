"""A neighbourhood on a grid in the softmax engine's TPU kernels, compiled and read.

64 x 64 tokens, each sees 13 x 13, bfloat16, one head of 128, on v5e: our flash kernels
with the mask's block lists, beside splash attention with the same mask as an array.
Ours take the mask as a rule, which partial blocks compute, as the intervals that
`impl="pallas"` of the system gives them, or as an array too, which they read. All are
given the tokens row by row: of tiles of this size those of whole rows visit as few
blocks as any, by the simulator, and are the system's choice. Splash gets the same.

Both are counted alike: for each visited block the bundles, which are cycles, of a grid
step, namely all that are in no conditional region and those of the region that such a
block runs, with or without the mask; and for each line of blocks all the other regions,
which begin and end it. Grid steps that visit nothing are left out, and the code that
only blocks with NaN, infinity or very large elements run.

Our backward kernel leaves the gradients of the queries. Splash's leaves parts of them,
one for each line of keys, in bfloat16, that XLA sums: `sums` has the least cycles in
which the chip's memory delivers them, and belongs to the same work. The best tiles of
each are compared, and ours must take fewer.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import masks, programs
from attnjax.core.scores import Scores
from attnjax.variants.local import neighborhood
from experiments.bench import lowering, tpu_peer, tpu_schedule
from experiments.bench import tpu as schedules
from pallas_kernels.flash import mosaic_tpu

MACHINE = "v5e"
GRID, WINDOW, SIZE = (64, 64), (13, 13), 128
# Queries and keys of a grid step.
STEPS = ((256, 256), (512, 512), (512, 1024))
# Bytes a cycle: 819 GB/s at 1.5 GHz.
MEMORY = 546


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether ours take fewer bundles than splash's); prints it."""
  found = list(_rows())
  schedules.show(found)
  holds = True
  for kernel in schedules.KERNELS:
    least = {}
    for whose in ("attnjax", "splash"):
      rows = (r for r in found if (r["kernel"], r["whose"]) == (kernel, whose))
      least[whose] = min(rows, key=lambda row: row["total"] + row["sums"])
    ours, theirs = (row["total"] + row["sums"] for row in least.values())
    sums = least["splash"]["sums"]
    verdict = "holds" if ours < theirs else "DOES NOT HOLD"
    print(f"{kernel}: {ours}, splash {theirs} ({sums} of sums): {ours / theirs:.3f}")
    print(f"{kernel}: fewer than splash: {verdict}")
    holds &= ours < theirs
  return found, holds


def gpu() -> tuple[list[dict], bool]:
  """Returns no rows: the package `flash` has the GPU kernel."""
  return [], True


def jobs() -> list[lowering.Job]:
  """Returns jobs for both kernels with the mask as a rule, on every TPU."""
  return [
    ("neighbourhood", functools.partial(lowered, machine))
    for machine in tpu_schedule.TOPOLOGIES
  ]


def lowered(machine: str) -> list[dict]:
  """Compiles both kernels for a machine."""
  rows = []
  for kernel in schedules.KERNELS:
    read, _ = _own(kernel, STEPS[1], masks.Neighborhood(GRID, WINDOW), machine)
    memory = round(sum(read.memory.values()) / 2**20, 1)
    row = {"machine": machine, "kernel": kernel, "bundles": read.bundles}
    rows.append(row | {"MiB": memory, "problems": ""})
  return rows


def _rows() -> Iterator[dict]:
  seen = np.asarray(neighborhood.dense_mask(GRID, window=WINDOW))
  axes = neighborhood.attention.broadcast(2, WINDOW, 1, 1, False)
  rows = 8, GRID[1]
  forms = {
    "rule": masks.Neighborhood(GRID, WINDOW),
    "intervals": neighborhood.fused.boxes(1, GRID, axes, rows),
    "array": masks.Dense(seen[None, None]),
  }
  T = math.prod(GRID)
  for step in STEPS:
    peers = tpu_peer.splash(MACHINE, T, step, seen)
    for kernel in schedules.KERNELS:
      lines = T // step[0 if kernel == "forward" else 1]
      for form, mask in forms.items():
        read, visits = _own(kernel, step, mask)
        yield _row(
          kernel, "attnjax", form, step, read, schedules.steps(read), visits, lines
        )
      read = peers[kernel]
      largest = max(region.all for region in read.regions)
      every = {"full": largest, "partial": largest, "rare": 0}
      row = _row(kernel, "splash", "array", step, read, every, visits, lines)
      parts = 2 * lines * T * SIZE / MEMORY if kernel == "backward" else 0
      yield row | {"sums": round(parts)}


def _row(
  kernel, whose, form, step, read: tpu_schedule.Kernel, regions, visits, lines
) -> dict:
  """Returns the bundles of a step of each kind, of a line's ends, and in all."""
  taken = regions["full"] + regions["rare"]
  taken += regions["partial"] if whose == "attnjax" else 0
  ends = sum(region.all for region in read.regions) - taken
  own = {kind: read.always + regions[kind] for kind in ("full", "partial")}
  total = lines * ends + sum(visits[kind] * size for kind, size in own.items())
  row = {"machine": MACHINE, "kernel": kernel, "whose": whose, "mask": form}
  row |= {"tile": f"{step[0]}x{step[1]}", "visits": sum(visits.values())}
  return row | own | {"ends": ends, "total": total, "sums": 0, "unit": read.bound}


def _own(kernel: str, step: tuple[int, int], mask: masks.Mask, machine=MACHINE):
  """Returns (our compiled kernel, its visits of full and of partial blocks)."""
  run, given, visits = call(kernel, step, mask)
  _, kernels = tpu_schedule.compile_for(machine, run, given)
  (read,) = (x for x in kernels if x.name == f"flash_{kernel}")
  return read, visits


def call(kernel: str, step: tuple[int, int], mask: masks.Mask):
  """Returns (our kernel as a function, its arguments' shapes, visits of both kinds)."""
  T = math.prod(GRID)
  inner = min(step)
  tile = mosaic_tpu.Tile(*step, inner, inner)
  cut = schedules.tiles(tile, tile)
  program = programs.program(Scores(mask), (1, 1, T, T))
  schedule = masks.schedule(mask, (1, 1, T, T), *step)
  full, count = int(schedule.full.sum()), int(schedule.count.sum())
  lists = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (program, schedule)
  )
  q = jax.ShapeDtypeStruct((1, T, 1, SIZE), jnp.bfloat16)
  line = jax.ShapeDtypeStruct((1, T, 1), jnp.float32)
  given = (q, q, q, None) if kernel == "forward" else (q, q, q, q, *[line] * 3)
  run = functools.partial(getattr(mosaic_tpu, kernel), scale=SIZE**-0.5, tiles=cut)
  return run, (*given, *lists), {"full": full, "partial": count - full}
