"""Tiles for a TPU by the compiler's schedule: needs no TPU.

A grid step's bundles are its cycles while nothing waits for memory, so the bundles a
score say which tiles compute best. Steps are few where blocks are large; what does not
fit fast memory is left out.
"""

import itertools

from experiments import errors
from experiments.bench import tpu, tpu_schedule
from pallas_kernels.flash import mosaic_tpu

_BLOCKS = ((512, 1024), (1024, 1024), (1024, 2048), (2048, 1024))
_INNER = (256, 512, 1024)


def rows(T: int, H: int, machine: str) -> tuple[list[dict], bool]:
  """Returns (the candidates, best first, True); prints them as they are compiled.

  Args:
    T: number of queries and keys.
    H: size of a head.
    machine: a key of `bundles.TOPOLOGIES`.
  """
  if machine not in tpu_schedule.TOPOLOGIES:
    known = ", ".join(tpu_schedule.TOPOLOGIES)
    raise errors.UserError(f"--topology {machine!r} is none of {known}")
  problem = tpu.Problem(H=H, V=H)
  found: list[dict] = []
  for kernel in tpu.KERNELS:
    for tile in _candidates(T):
      cut = tpu.tiles(tile, tile)
      try:
        mosaic_tpu.check(cut, *problem.arrays(), problem.program)
        read = tpu.compiled(machine, kernel, problem, cut)
      except Exception as reason:  # the compiler's own, of any kind
        print(f"{kernel} {tile}: left out: {str(reason).splitlines()[0][:90]}")
        continue
      scores = tile.block_q * tile.block_k
      row = {
        "machine": machine,
        "kernel": kernel,
        "H": H,
        "block_q": tile.block_q,
        "block_k": tile.block_k,
        "inner_q": tile.inner_q,
        "inner_k": tile.inner_k,
        "bundles": read.bundles,
        "a score": round(1000 * read.bundles / scores, 3),
        "unit": read.bound,
      }
      tpu.show([row], head=not found)
      found.append(row)
  found.sort(key=lambda row: (row["kernel"], row["a score"]))
  for kernel in tpu.KERNELS:
    best = next((row for row in found if row["kernel"] == kernel), None)
    if best is not None:
      print(f"best {kernel} (bundles a thousand scores):")
      tpu.show([best])
  return found, True


def _candidates(T: int):
  for (block_q, block_k), q, k in itertools.product(_BLOCKS, _INNER, _INNER):
    if block_q <= T and block_k <= T and block_q % q == 0 and block_k % k == 0:
      yield mosaic_tpu.Tile(block_q, block_k, q, k)
