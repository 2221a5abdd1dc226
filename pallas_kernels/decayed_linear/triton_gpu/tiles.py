"""Tile sizes, and the shared memory of a GPU that they need."""

import dataclasses

import jax.numpy as jnp

from pallas_kernels import in_parts
from pallas_kernels.flash.triton_gpu.tiles import device, limit

__all__ = ["KERNELS", "Tile", "Tiles", "check", "defaults", "device", "estimate"]
KERNELS = ("states", "output", "keys", "values")


@dataclasses.dataclass(frozen=True)
class Tile:
  """One kernel's tile.

  Attributes:
    h: columns of queries and keys.
    e: columns of values.
    warps: of 32 threads.
    stages: tiles in flight from memory, the current one included.
  """

  h: int
  e: int
  warps: int
  stages: int


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of the kernels, which share the length of a chunk.

  Attributes:
    chunk: tokens of a chunk.
    states: of a state, or of the gradient by a state.
    output: of queries, keys and values, for the outputs.
    keys: of queries, keys and values, for the gradients by queries and keys.
    values: of queries, keys and values, for the gradient by values.
    parts: the most parts of whole chunks whose states are computed in parallel, in two
      passes if there are several.
  """

  chunk: int
  states: Tile
  output: Tile
  keys: Tile
  values: Tile
  parts: int = 1


def check(tiles: Tiles, dtype, capability: int) -> None:
  """Raises ValueError, naming value and rule, for tiles that cannot run."""
  if tiles.chunk < 16 or tiles.chunk & (tiles.chunk - 1):
    raise ValueError(
      f"tiles.chunk is {tiles.chunk}; it must be a power of two, at least 16"
    )
  if tiles.parts < 1:
    raise ValueError(f"tiles.parts is {tiles.parts}; it must be at least 1")
  for name in KERNELS:
    tile = getattr(tiles, name)
    for field in ("h", "e"):
      size = getattr(tile, field)
      if size < 16 or size & (size - 1):
        raise ValueError(
          f"tiles.{name}.{field} is {size}; it must be a power of two, at least 16"
        )
    if tile.warps not in (1, 2, 4, 8, 16):
      raise ValueError(
        f"tiles.{name}.warps is {tile.warps}; it must be 1, 2, 4, 8 or 16"
      )
    if tile.stages < 1:
      raise ValueError(f"tiles.{name}.stages is {tile.stages}; it must be at least 1")
    need, have = estimate(tiles, name, dtype), limit(capability)
    if need > have:
      raise ValueError(
        f"tiles.{name} {tile} needs {need} bytes of shared memory for"
        f" {jnp.dtype(dtype).name}; compute capability {capability} has {have}"
      )


def estimate(tiles: Tiles, kernel: str, dtype) -> int:
  """Returns an upper bound of a program's shared memory in bytes.

  Args:
    tiles: of all kernels.
    kernel: one of KERNELS.
    dtype: of the inputs.
  """
  tile, C = getattr(tiles, kernel), tiles.chunk
  size = jnp.dtype(dtype).itemsize
  moving, still = {
    "states": (C * (tile.h + tile.e), C * tile.h + tile.h * tile.e),
    "output": (2 * C * tile.h + tile.h * tile.e, C * (C + tile.e)),
    "keys": (2 * C * tile.e + 2 * tile.h * tile.e, C * (C + 2 * tile.h)),
    "values": (2 * C * tile.h + tile.h * tile.e, C * (C + tile.e)),
  }[kernel]
  moving *= size
  if dtype == jnp.dtype("float16"):  # its states are float32
    moving += 2 * tile.h * tile.e * {"states": 0, "keys": 2}.get(kernel, 1)
  # Tiles that are not pipelined are held in float32 while their layout changes.
  return moving * tile.stages + 4 * still + 4096


def defaults(q, k, v, capability: int) -> Tiles:
  """Returns default tiles, chosen by the compiled code (`experiments.bench gpu`).

  Args:
    q: (B, T, N, H), an array or its shape.
    k: (B, T, K, H), an array or its shape.
    v: (B, T, K, E), an array or its shape.
    capability: compute capability, 90 for an H100.
  """
  del k
  dtype, have = jnp.dtype(q.dtype), limit(capability)
  half = dtype == jnp.dtype("float16")
  H, E = q.shape[3], v.shape[3]
  sizes = ((64, 3), (64, 2), (32, 2)) if dtype.itemsize < 4 else ((32, 2),)
  for wide, stages in (*sizes, (32, 1), (16, 1)):
    h, e = _width(H, wide), _width(E, wide)
    tile = Tile(h, e, 4, stages)
    # The scores of a chunk are computed once for all of these columns.
    broad = Tile(h, max(min(E, 32), _width(E, 128)) if wide == 64 else e, 4, stages)
    keys = tile
    if half:
      broad = tile  # its states are float32 until they are multiplied
    if dtype.itemsize == 4:  # three products each, of two parts of a number
      keys = Tile(_width(H, 16), e, 4, stages)
    elif capability < 90 or half:
      # Tensor cores before Hopper's take both factors from registers, which spill.
      keys = Tile(_width(H, min(wide, 32)), e, 4, min(stages, 2))
    tiles = Tiles(max(wide, 32), tile, broad, keys, broad)
    if max(estimate(tiles, name, dtype) for name in KERNELS) <= have:
      break
  programs = q.shape[0] * q.shape[2] * -(-H // h) * -(-E // e)
  parts = in_parts.number(programs, -(-q.shape[1] // tiles.chunk))
  return dataclasses.replace(tiles, parts=parts)


def _width(size: int, most: int) -> int:
  """Returns the largest tile width, up to `most`, of those that pad `size` least."""
  sizes = [w for w in (16, 32, 64, 128) if w <= most]
  return min(sizes, key=lambda w: (-(-size // w) * w, -w))
