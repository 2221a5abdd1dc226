"""The kernels of attention to pages (`pallas_kernels.paged_decode`), compiled and read.

A step of decoding reads each key and value once, so that memory bounds it. The TPU
table has, for a tile of pages, the bundles, which are cycles, of all that a tile and
the start and end of its row run, beside the cycles in which the chip's memory delivers
the tile; `share` is the share of the memory's speed that is reached while it is less
than the bundles. jax's ragged paged attention is compiled for tiles of as many tokens,
and all of its bundles are counted, also those that few steps run. The GPU table has
registers, spills, shared memory and the instructions of a tile's trip. With scores the
kernel also writes the scores of tokens.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import gpu_calls, kernel_tables, lowering, tpu_schedule
from experiments.bench.kernel_tables import CHIPS, SHOWN

# Bytes a cycle: of memory, 819 GB/s at 1.5 GHz and 1640 GB/s at 1.75 GHz.
MEMORY = {"v5e": 546, "v6e": 937}
# The least share of the memory's speed: what Ragged Paged Attention reports.
SHARE = 0.86
# Query heads, key heads and their size.
HEADS = ((32, 8, 128), (28, 4, 128), (16, 16, 64), (8, 1, 256))
PAGE, LENGTH, ROWS = 16, 8192, 8


def arguments(N: int, K: int, H: int, dtype="bfloat16", G: int = 1) -> tuple[Any, ...]:
  """Returns the shapes of the arguments of a backend's `forward`."""

  def shape(*sizes, dtype="int32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  tokens = shape(ROWS * LENGTH, K, H, dtype=dtype)
  lists = shape(ROWS, G, LENGTH // PAGE)
  return shape(ROWS, N, H, dtype=dtype), tokens, tokens, lists, lists


def call(module, H: int, scores: bool) -> Callable:
  """Returns a backend's kernel as a function of `arguments`."""
  given = {"page": PAGE, "scale": H**-0.5, "scores": scores, "tiles": None}
  return lambda *arrays: module.forward(*arrays, **given)


def tpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether SHARE is reached); prints it."""
  rows = []
  for machine in MEMORY:
    rows += [tpu_row(machine, *HEADS[0], scores) for scores in (False, True)]
    rows.append(peer_row(machine, *HEADS[0]))
  return kernel_tables.of_tpu(rows)


def gpu() -> tuple[list[dict], bool]:
  """Returns (the table, whether nothing spills); prints it."""
  return kernel_tables.of_gpu(r for chip in SHOWN for r in gpu_rows(chip, *HEADS[0]))


def jobs() -> list[lowering.Job]:
  """Returns jobs for all numbers of heads on all machines."""
  found = []
  for heads in HEADS:
    found += [(tpu_rows, machine, *heads) for machine in tpu_schedule.TOPOLOGIES]
    found += [(gpu_rows, chip, *heads) for chip in CHIPS]
    found += [(gpu_rows, chip, *heads, "float32") for chip in CHIPS]
  found += [
    (gpu_rows, chip, 32, 8, 128, "bfloat16", G) for chip in CHIPS for G in (8, 32)
  ]
  return [("paged_decode", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, N: int, K: int, H: int) -> list[dict]:
  """Compiles the kernel for a TPU, with and without scores."""
  return [tpu_row(machine, N, K, H, scores) for scores in (False, True)]


def tpu_row(machine: str, N: int, K: int, H: int, scores: bool) -> dict:
  """Compiles the kernel for a TPU, and reads a tile's bundles."""
  from pallas_kernels.paged_decode import mosaic_tpu

  given = arguments(N, K, H)
  q, k, v, starts = given[:4]
  tiles = mosaic_tpu.fitting(q, k, v, starts, PAGE)
  function = call(mosaic_tpu, H, scores)
  compiled, kernels = tpu_schedule.compile_for(machine, function, given)
  (read,) = (x for x in kernels if x.name == "paged_decode")
  # Pages of a tile are read by one of three equal parts of the code.
  first, _, third = sorted(read.regions, key=lambda region: -region.all)[:3]
  bundles = read.bundles - first.all - third.all
  row: dict[str, Any] = {"machine": machine}
  row |= {"kernel": "scores" if scores else "plain"}
  size = sum(read.memory.values())
  estimate = mosaic_tpu.estimate(tiles.pages * PAGE * K, *given[:3])
  row |= _row(machine, read, (N, K, H), tiles.pages * PAGE, bundles)
  row |= {"MiB": round(size / 2**20, 2), "estimate": round(estimate / 2**20, 2)}
  problem = "estimate too low" if estimate < size else ""
  if (N, K, H) == HEADS[0] and row.get("share", 1) < SHARE:
    problem = problem or "slow"
  if _copied(compiled, given[1]):
    problem = problem or "pages are copied"
  return row | {"problems": problem}


def _copied(compiled, pages) -> bool:
  """Returns whether the program holds a further array as large as the pages."""
  size = pages.size * pages.dtype.itemsize
  return compiled.memory_analysis().temp_size_in_bytes >= size


def _row(machine, read, heads, tokens: int, bundles: int) -> dict:
  N, K, H = heads
  row = {"N": N, "K": K, "H": H, "tokens": tokens, "bundles": bundles}
  if machine in MEMORY:
    memory = 2 * 2 * tokens * K * H / MEMORY[machine]
    row |= {"memory": round(memory), "share": round(min(1, memory / bundles), 2)}
  return row | {"unit": read.bound, "slots": read.used[read.bound]}


def peer_row(machine: str, N: int, K: int, H: int) -> dict:
  """Compiles jax's ragged paged attention for one token a row."""
  from jax.experimental.pallas.ops.tpu import ragged_paged_attention as peer

  pages = 4096 // (PAGE * K)

  def run(*arrays):
    return peer.ragged_paged_attention(
      *arrays,
      sm_scale=H**-0.5,
      num_kv_pages_per_block=pages,
      num_queries_per_block=8,
      vmem_limit_bytes=64 << 20,
    )

  def shape(*sizes, dtype="int32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  _, kernels = tpu_schedule.compile_for(
    machine,
    run,
    (
      shape(ROWS, N, H, dtype="bfloat16"),
      shape(ROWS * LENGTH // PAGE, PAGE, 2 * K, H, dtype="bfloat16"),
      shape(ROWS),
      shape(ROWS, LENGTH // PAGE),
      shape(ROWS + 1),
      shape(1),
    ),
  )
  (read,) = (x for x in kernels if x.name.startswith("ragged_paged_attention"))
  row = {"machine": machine, "kernel": "jax"}
  row |= _row(machine, read, (N, K, H), pages * PAGE, read.bundles)
  size = round(sum(read.memory.values()) / 2**20, 2)
  return row | {"MiB": size, "estimate": "", "problems": ""}


def gpu_rows(
  capability: int, N: int, K: int, H: int, dtype="bfloat16", G: int = 1
) -> list[dict]:
  """Compiles the kernel for a GPU, with and without scores."""
  from pallas_kernels.paged_decode import triton_gpu

  given, rows = arguments(N, K, H, dtype, G), []
  for scores in (False, True):
    with gpu_calls.target(capability):
      q, k, v, starts = given[:4]
      tiles = triton_gpu.fitting(q, k, v, starts, PAGE)
      traced = jax.make_jaxpr(call(triton_gpu, H, scores))(*given)
    (found,) = kernel_tables.launches(traced.jaxpr)
    one, block = gpu_calls.from_equation(found), (tiles.rows, tiles.tokens)
    more = {"N": N, "K": K, "G": G, "H": H, "dtype": dtype, "parts": tiles.parts}
    name = "scores" if scores else "plain"
    rows.append(kernel_tables.gpu_row(name, one, capability, block, **more))
  return rows
