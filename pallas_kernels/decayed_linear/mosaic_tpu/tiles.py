"""Tile sizes of the TPU kernels, and the fast memory (VMEM) that they take."""

import dataclasses
import math

import jax.numpy as jnp

from pallas_kernels.flash.mosaic_tpu.layout import ceil_to
from pallas_kernels.flash.mosaic_tpu.operands import LANES

# Rows of a tile in VMEM for bfloat16; float32 needs half.
_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Tile:
  """A grid step: a chunk of some heads.

  Attributes:
    chunk: tokens; their products grow with its square, those with the state do not.
    heads: query heads, whose products hide each other's latency.
    inner: tokens of a part; pairs of parts that are masked are skipped.
  """

  chunk: int
  heads: int
  inner: int


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of the forward and of the backward pass.

  Attributes:
    forward, backward: the tile of each.
    memory: bytes of fast memory (VMEM) that a kernel may take.
  """

  forward: Tile
  backward: Tile
  memory: int = 96 << 20


def check(tiles: Tiles, q, k, v) -> None:
  """Raises ValueError, naming value and rule, for tiles that do not fit."""
  N, K = q.shape[2], k.shape[2]
  for name in ("forward", "backward"):
    tile = getattr(tiles, name)
    where = f"tiles.{name}"
    if tile.chunk % _ROWS or (tile.chunk % LANES and q.shape[1] > tile.chunk):
      raise ValueError(f"{where}.chunk {tile.chunk} is not a multiple of {LANES}")
    if tile.chunk % tile.inner or (tile.inner % LANES and tile.inner != tile.chunk):
      raise ValueError(
        f"{where}.inner {tile.inner} does not divide chunk {tile.chunk} in multiples"
        f" of {LANES}"
      )
    if N % tile.heads:
      raise ValueError(f"{where}.heads {tile.heads} does not divide {N} heads")
    group = N // K
    if tile.heads % group and group % tile.heads:
      raise ValueError(
        f"{where}.heads {tile.heads} and {group} heads a key head: one must divide the"
        " other"
      )
    need = estimate(tile, name, q, v)
    if need > tiles.memory:
      raise ValueError(
        f"{where} needs {need / 2**20:.1f} MiB of fast memory, more than its limit of"
        f" {tiles.memory / 2**20:.1f}"
      )


def estimate(tile: Tile, kernel: str, q, v) -> int:
  """Returns an upper bound of a kernel's VMEM in bytes.

  Args:
    tile: of the kernel.
    kernel: "forward" or "backward".
    q: (B, T, N, H), an array or its shape.
    v: (B, T, K, E), an array or its shape.
  """
  C, heads, H, E = tile.chunk, tile.heads, q.shape[3], v.shape[3]
  size = 2 if q.dtype == jnp.bfloat16 else 4
  narrow, wide = ceil_to(H, LANES), ceil_to(E, LANES)
  rows = ceil_to(C, _ROWS) * heads
  state = heads * ceil_to(H, _ROWS) * wide
  lines = 4 * 8 * ceil_to(C, LANES) * (heads + 1)
  if kernel == "forward":
    windows = rows * (2 * narrow + 2 * wide) * size + 8 * state + lines
    parts = tile.inner * ceil_to(C, LANES) + C * (narrow + wide)
  else:
    # Gradients of grouped keys are float32 until they are summed.
    windows = rows * (2 * narrow + 2 * wide) * size + rows * (2 * narrow + wide) * 4
    windows += (8 + size) * state + 2 * lines
    parts = 2 * tile.inner * ceil_to(C, LANES) + 3 * C * (narrow + wide)
  return 2 * windows + 4 * state + 4 * heads * parts + (2 << 20)


def defaults(q, k, v, device: str = "") -> Tiles:
  """Returns the tiles that were best by the compiled schedule, fitted to the shapes.

  Args:
    q: (B, T, N, H), an array or its shape.
    k: (B, T, K, H), an array or its shape.
    v: (B, T, K, E), an array or its shape.
    device: the device's kind, as `jax.Device.device_kind` names it.
  """
  memory = _MEMORY.get(device, 48 << 20)
  small = q.dtype == jnp.bfloat16 and max(q.shape[3], v.shape[3]) <= LANES
  cut = []
  for kernel in ("forward", "backward"):
    for chunk, heads in (*((_BEST,) if small else ()), *_SMALLER):
      tile = _fit(chunk, heads, q, k)
      if estimate(tile, kernel, q, v) <= memory:
        break
    cut.append(tile)
  return Tiles(*cut, memory=memory)


# Chunk and heads with the fewest bundles a token, of those tried (the schedules that
# `experiments.bench tpu` shows).
_BEST = (256, 8)
_SMALLER = ((256, 2), (256, 1), (128, 1))
# Some is left to the compiler, of 128 MiB; chips that are not named have at least 64.
_MEMORY = {
  "TPU v5 lite": 96 << 20,
  "TPU v5e": 96 << 20,
  "TPU v6 lite": 96 << 20,
  "TPU v6e": 96 << 20,
  "TPU v4": 14 << 20,
}


def _fit(chunk: int, heads: int, q, k) -> Tile:
  T, N, K = q.shape[1], q.shape[2], k.shape[2]
  group = N // K
  chunk = min(chunk, ceil_to(T, LANES if T > LANES else _ROWS))
  fitting = (
    h for h in range(heads, 0, -1) if N % h == 0 and math.gcd(h, group) in (h, group)
  )
  return Tile(chunk, next(fitting), min(chunk, LANES))
