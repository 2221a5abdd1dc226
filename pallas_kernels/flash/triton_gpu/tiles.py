"""Tile sizes, and the shared memory of a GPU that they need."""

import dataclasses

import jax.numpy as jnp

from attnjax.core.platform import target_capability
from pallas_kernels.flash.triton_gpu.constants import Width

# Bytes of shared memory that one program may have, by compute capability.
_LARGE, _SMALL = 227 * 1024, 99 * 1024
SHARED = {75: 64 * 1024, 80: 163 * 1024, 86: _SMALL, 89: _SMALL}
SHARED |= {90: _LARGE, 100: _LARGE, 120: _SMALL}
# Up to so many queries are few: their keys are split among programs.
FEW = 16


@dataclasses.dataclass(frozen=True)
class Tile:
  """One kernel's tile.

  Attributes:
    block_q: queries of a tile.
    block_k: keys of a tile.
    warps: warps of 32 threads.
    stages: pipeline stages: tiles in flight from memory, the current one included.
    masked: size of the walked side where a mask applies, which costs registers.
    masked_stages: stages where a mask applies, if fewer, to save registers.
  """

  block_q: int
  block_k: int
  warps: int
  stages: int
  masked: int
  masked_stages: int | None = None


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of the three kernels.

  The forward schedule has the blocks (forward.block_q, forward.block_k); the backward
  one (queries.block_q, keys.block_k), which the two backward kernels walk in steps of
  queries.block_k keys and of keys.block_q queries. With `apart` the gradients of keys
  and of values take a launch each, which recomputes scores but needs fewer registers.
  """

  forward: Tile
  queries: Tile
  keys: Tile
  apart: bool = False

  @property
  def forward_blocks(self) -> tuple[int, int]:
    """Returns (queries, keys) of a block of the forward schedule."""
    return self.forward.block_q, self.forward.block_k

  @property
  def backward_blocks(self) -> tuple[int, int]:
    """Returns (queries, keys) of a block of the backward schedule."""
    return self.queries.block_q, self.keys.block_k

  def blocks(self, scores, shape) -> tuple[tuple[int, int], ...]:
    """Returns (block_q, block_k) of both schedules, for any scores and shape."""
    del scores, shape
    return self.forward_blocks, self.backward_blocks


def check(tiles: Tiles, H: int, V: int, dtype, capability: int, cells: int = 0) -> None:
  """Raises ValueError, with the value and the rule, for tiles that cannot run."""
  walked = {
    "forward": ("block_k", tiles.forward.block_k),
    "queries": ("block_k", tiles.keys.block_k),
    "keys": ("block_q", tiles.queries.block_q),
  }
  for name, (side, whole) in walked.items():
    tile = getattr(tiles, name)
    for field in ("block_q", "block_k", "masked"):
      size = getattr(tile, field)
      if size < 16 or size & (size - 1):
        raise ValueError(
          f"{name}.{field} is {size}; it must be a power of two, at least 16"
        )
      if field in (side, "masked") and whole % size:
        raise ValueError(
          f"{name}.{field} is {size}; it must divide the schedule's {side}, {whole}"
        )
    if tile.warps not in (1, 2, 4, 8, 16):
      raise ValueError(f"{name}.warps is {tile.warps}; it must be 1, 2, 4, 8 or 16")
    if tile.stages < 1:
      raise ValueError(f"{name}.stages is {tile.stages}; it must be at least 1")
    if not 1 <= (tile.masked_stages or tile.stages) <= tile.stages:
      raise ValueError(
        f"{name}.masked_stages is {tile.masked_stages}; it must be 1 to {tile.stages}"
      )
    need, have = estimate(tile, name, H, V, dtype, capability, cells), limit(capability)
    if need > have:
      raise ValueError(
        f"{name} tile {tile} needs {need} bytes of shared memory for H={H}, V={V}, "
        f"{jnp.dtype(dtype).name}; compute capability {capability} has {have}"
      )


def limit(capability: int) -> int:
  """Returns a program's shared memory limit in bytes; the least known for old chips."""
  known = [c for c in SHARED if c <= capability]
  return SHARED[max(known)] if known else min(SHARED.values())


def cells_of(program) -> int:
  """Returns the bytes, for each score, of operands with an element for each score."""
  sizes = [(x.shape, jnp.dtype(x.dtype).itemsize) for x in program.operands]
  return sum(size for shape, size in sizes if shape[2] > 1 and shape[3] > 1)


def estimate(
  tile: Tile, kernel: str, H: int, V: int, dtype, capability: int, cells: int = 0
) -> int:
  """Estimates a program's bytes of shared memory: at least the compiler's report.

  Args:
    tile: tile of the kernel.
    kernel: "forward", "decode", "queries", "tables" or "keys".
    H: size of a head of queries and keys.
    V: size of a head of values.
    dtype: of the inputs.
    capability: compute capability, 90 for an H100.
    cells: bytes of operands for each score of a tile.
  """
  size = jnp.dtype(dtype).itemsize
  h, v = Width.of(H).padded, Width.of(V).padded
  q, k = tile.block_q, tile.block_k
  # A float32 product is three shorter ones, with each factor in two parts.
  parts = 2 if size == 4 else 1
  still, moving = {
    "forward": (q * h, k * (h + v)),
    "decode": (q * (h + v * (parts - 1)), k * (h + v)),
    "queries": (q * (h + v), k * (h + v)),
    "tables": (q * (h + v), k * (h + v) * parts),
    "keys": (k * (h + v), q * (h + v)),
  }[kernel]
  need = size * (still * parts + moving * tile.stages) + 1024
  # Operands are pipelined as keys and values are; the current tile changes its layout.
  need += cells * q * k * tile.stages
  if kernel == "keys":
    need += 8 * q * tile.stages
  tensor_memory = 100 <= capability < 120
  need += 256 * tensor_memory  # its barriers
  if kernel != "forward" and tensor_memory:
    # Arrays that enter products at two stages of the pipeline are held once more.
    width = Width.of(H)
    again = width.padded + (width.first if width.second else 0)
    need += size * (k * again if kernel == "queries" else q * (again + v))
  return need


def device() -> int:
  """Returns the compute capability of the target GPU, or an H100's without a GPU."""
  return target_capability() or 90
