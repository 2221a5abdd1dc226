"""Tiles of the TPU kernels: defaults, checks and unsupported problems."""

import dataclasses

import jax.numpy as jnp

from pallas_kernels.flash.mosaic_tpu import lists
from pallas_kernels.flash.mosaic_tpu.layout import ceil_to
from pallas_kernels.flash.mosaic_tpu.lists import ROOM, taken
from pallas_kernels.flash.mosaic_tpu.memory import Memory, estimate, kinds
from pallas_kernels.flash.mosaic_tpu.operands import LANES

DTYPES = ("float32", "bfloat16", "float16")
# No rule in Mosaic lowers these.
ABSENT = frozenset("cbrt cosh erfc expm1 lgamma nextafter sinh".split())


@dataclasses.dataclass(frozen=True)
class Tile:
  """A grid step's tile of scores, and the parts that it is computed in.

  Attributes:
    block_q, block_k: queries and keys of a grid step; schedule blocks are multiples.
    inner_q, inner_k: queries and keys of a part.
  """

  block_q: int
  block_k: int
  inner_q: int
  inner_k: int

  def of_rows(self, rows: int) -> "Tile":
    """Returns a copy of the tile whose block_q is all of `rows`."""
    inner = self.inner_q if rows % self.inner_q == 0 else rows
    return dataclasses.replace(self, block_q=rows, inner_q=inner)


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of both kernels.

  Attributes:
    forward, backward: the tile of each kernel.
    memory: bytes of fast memory (VMEM) that a kernel may take.
  """

  forward: Tile
  backward: Tile
  memory: int = 96 << 20

  @property
  def forward_blocks(self) -> tuple[int, int]:
    """Returns (queries, keys) of the least block of the forward schedule."""
    return self.forward.block_q, self.forward.block_k

  @property
  def backward_blocks(self) -> tuple[int, int]:
    """Returns (queries, keys) of the least block of the backward schedule."""
    return self.backward.block_q, self.backward.block_k

  def blocks(self, scores, shape) -> tuple[tuple[int, int], ...]:
    """Returns (block_q, block_k) of both schedules, large enough that their lists fit.

    Raises:
      NotImplementedError: if no blocks make the lists short enough.
    """
    return (
      lists.blocks(self.forward_blocks, scores, shape, "index"),
      lists.blocks(self.backward_blocks, scores, shape, "index_t"),
    )


def check(tiles: Tiles, q, k, v, program) -> Memory:
  """Returns the estimated memory of tiles that fit.

  Raises:
    ValueError: if a size breaks a rule, or a kernel needs too much memory.
  """
  for name, tile in (("forward", tiles.forward), ("backward", tiles.backward)):
    for axis in ("q", "k"):
      block, inner = (getattr(tile, f"{part}_{axis}") for part in ("block", "inner"))
      where = f"tiles.{name}"
      if block < 1 or block % LANES:
        raise ValueError(f"{where}.block_{axis} {block} is not a multiple of {LANES}")
      step = 16 if (name, axis) == ("forward", "q") else LANES
      if inner < 1 or inner % step:
        raise ValueError(f"{where}.inner_{axis} {inner} is not a multiple of {step}")
      if block % inner:
        raise ValueError(
          f"{where}.inner_{axis} {inner} does not divide block_{axis} {block}"
        )
  memory = estimate(tiles, q, k, v, program)
  for name, bytes_ in (("forward", memory.forward), ("backward", memory.backward)):
    if bytes_ > tiles.memory:
      raise ValueError(
        f"tiles.{name} needs {bytes_ / 2**20:.1f} MiB of fast memory, "
        f"more than its limit of {tiles.memory / 2**20:.1f}"
      )
  return memory


def check_schedule(tile: Tile, schedule, index, name: str) -> None:
  """Raises ValueError if block lists are too long or not made for the tile."""
  blocks, wanted = (schedule.block_q, schedule.block_k), (tile.block_q, tile.block_k)
  if any(block % own for block, own in zip(blocks, wanted)):
    raise ValueError(
      f"schedule has blocks {blocks}, which are not whole tiles.{name} {wanted}"
    )
  size = taken(index, batches=1)
  if size > ROOM:
    raise ValueError(
      f"block lists {index.shape} take {size} bytes of scalar memory for a batch entry,"
      f" more than {ROOM}: take larger blocks"
    )


def supports(q, k, v, program) -> None:
  """Raises NotImplementedError, with the reason, if the kernels cannot do a problem."""
  for name, array in (("q", q), ("k", k), ("v", v)):
    if array.dtype.name not in DTYPES:
      raise NotImplementedError(f"{name} is {array.dtype}: TPU kernels take {DTYPES}")
  for number, array in enumerate(program.operands):
    if array.dtype.itemsize > 4:
      raise NotImplementedError(
        f"operand {number} is {array.dtype}: TPUs compute with 32 bits"
      )
  for function in (program.score, program.seen, program.keep):
    for equation in function.jaxpr.jaxpr.eqns if function is not None else ():
      name = equation.primitive.name
      if name in ABSENT:
        raise NotImplementedError(f"operation {name!r} has no lowering in TPU kernels")
      dtype = equation.outvars[0].aval.dtype
      if dtype == jnp.float16 or dtype.itemsize > 4:
        raise NotImplementedError(f"operation {name!r} makes {dtype} numbers")


def defaults(q, k, v, program, device: str = "") -> Tiles:
  """Returns the tiles with the best compiled schedule, fitted to the shapes.

  Args:
    q: (B, T, N, H), an array or its shape.
    k: (B, S, K, H), an array or its shape.
    v: (B, S, K, V), an array or its shape.
    program: the scores' program.
    device: the device's kind, as in `jax.Device.device_kind`.
  """
  memory = _MEMORY.get(device, 48 << 20)
  large = max(q.shape[3], v.shape[3]) > 128 or q.dtype != jnp.bfloat16
  large |= any(kind == "cell" for kind, *_ in kinds(program))
  best = _BEST.get(device, _BEST["TPU v5 lite"])
  T, S = q.shape[1], k.shape[1]
  for forward, backward in (*(() if large else (best,)), _LARGE, *_SMALLER):
    tiles = Tiles(_fit(forward, T, S), _fit(backward, T, S), memory)
    needed = estimate(tiles, q, k, v, program)
    if max(needed.forward, needed.backward) <= memory:
      break
  return tiles


# Of 128 MiB some is left to the compiler; chips that are not named have at least 64.
_MEMORY = {
  "TPU v5 lite": 96 << 20,
  "TPU v5e": 96 << 20,
  "TPU v6 lite": 96 << 20,
  "TPU v6e": 96 << 20,
  "TPU v4": 14 << 20,
}
# Least bundles for the same work, of those tried (`experiments.bench tpu` shows them).
_BEST = {
  "TPU v5 lite": (Tile(1024, 2048, 1024, 512), Tile(1024, 2048, 1024, 1024)),
  "TPU v6 lite": (Tile(1024, 2048, 128, 2048), Tile(1024, 2048, 256, 1024)),
}
_BEST |= {"TPU v5e": _BEST["TPU v5 lite"], "TPU v6e": _BEST["TPU v6 lite"]}
# Where blocks are large in fast memory.
_LARGE = (Tile(512, 1024, 512, 512), Tile(512, 1024, 512, 512))
# Where fast memory is small.
_SMALLER = tuple((tile, tile) for tile in (Tile(256, 512, 256, 512), Tile(*[128] * 4)))


def _fit(tile: Tile, T: int, S: int) -> Tile:
  block_q = min(tile.block_q, ceil_to(T, LANES))
  block_k = min(tile.block_k, ceil_to(S, LANES))
  return Tile(
    block_q, block_k, _part(block_q, tile.inner_q), _part(block_k, tile.inner_k)
  )


def _part(block: int, inner: int) -> int:
  """Returns the largest multiple of LANES up to `inner` that divides the block."""
  return max(p for p in range(LANES, inner + 1, LANES) if block % p == 0)
