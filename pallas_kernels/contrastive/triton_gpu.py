"""InfoNCE on GPUs: Triton kernels called through jax-triton."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.contrastive import Marks, Slopes, spans
from attnjax.core.platform import target_capability, target_platform
from pallas_kernels import calling
from pallas_kernels.contrastive.triton_gpu_kernel import (
  backward_kernel,
  forward_kernel,
)

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Tile:
  """The tile of a kernel; all sizes are powers of two from 16 on.

  Attributes:
    rows: of a tile.
    columns: of a tile.
    depth: elements of a row that are multiplied at once.
    width: elements of the sums that a program of the backward kernel holds.
    warps: of 32 threads.
    stages: tiles in flight from memory, the current one included.
  """

  rows: int
  columns: int
  depth: int
  width: int = 16
  warps: int = 4
  stages: int = 2


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of the two kernels."""

  forward: Tile
  backward: Tile


# By capability from which it counts and bytes of an element. The backward kernel has as
# wide sums as spill nothing with jaxlib's oldest assembler (`experiments.bench`):
# narrower ones compute the scores more often.
_SINGLE = Tiles(Tile(64, 64, 32, 16, 4, 2), Tile(32, 32, 32, 128, 4, 2))
_DEFAULTS = {
  80: {
    2: Tiles(Tile(128, 128, 64, 16, 8, 3), Tile(64, 64, 64, 256, 8, 2)),
    4: _SINGLE,
  },
  90: {
    2: Tiles(Tile(128, 128, 64, 16, 8, 3), Tile(128, 64, 64, 256, 8, 2)),
    4: _SINGLE,
  },
  100: {
    2: Tiles(Tile(128, 128, 64, 16, 8, 3), Tile(64, 64, 64, 256, 8, 2)),
    4: _SINGLE,
  },
  120: {
    2: Tiles(Tile(128, 128, 64, 16, 8, 3), Tile(64, 64, 32, 256, 8, 2)),
    4: _SINGLE,
  },
}


def supports(q, items) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  calling.check_types("triton", DTYPES, q=q, items=items)
  for name, count in (("Nq", q.shape[0]), ("Ni", items.shape[0])):
    if count > 2**30:
      raise NotImplementedError(
        f"impl 'triton': {name} is {count}; rows are numbered in 32 bits, up to 2^30"
      )


def fitting(x, y) -> Tiles:
  """Returns the default tiles for rows x (R, D) and columns y (C, D)."""
  capability = (target_capability() if target_platform() == "gpu" else None) or 90
  chip = max((c for c in _DEFAULTS if c <= capability), default=min(_DEFAULTS))
  tiles = _DEFAULTS[chip][jnp.dtype(x.dtype).itemsize]
  sides = (x.shape[0], y.shape[0]), x.shape[1]
  return Tiles(*(_shortened(t, *sides) for t in (tiles.forward, tiles.backward)))


def _shortened(tile: Tile, sides: tuple[int, int], D: int) -> Tile:
  """Returns a tile that is no larger than the problem."""
  rows, columns = (min(a, _power(b)) for a, b in zip((tile.rows, tile.columns), sides))
  depth, width = (min(n, _power(D)) for n in (tile.depth, tile.width))
  return dataclasses.replace(tile, rows=rows, columns=columns, depth=depth, width=width)


def forward(
  x, y, scale, rows: Marks, columns: Marks, mask, *, positive: bool, tiles: Tiles | None
):
  """Computes (top, total, positive), see `attnjax.core.contrastive.gradients`."""
  tile = (tiles or fitting(x, y)).forward
  arrays = _arrays(tile, x, y, scale, rows, columns, mask)
  line = jax.ShapeDtypeStruct(arrays[5].shape, jnp.float32)
  found = calling.triton(
    *arrays,
    kernel=forward_kernel,
    out_type=(line,) * 3,
    grid=(line.shape[0] // tile.rows,),
    name="contrastive_forward",
    POSITIVE=positive,
    **_constants(tile, arrays, y.shape[0]),
  )
  return tuple(z[: x.shape[0]] for z in found)


def backward(
  x,
  y,
  scale,
  rows: Marks,
  columns: Marks,
  mask,
  own: Slopes,
  others: Slopes,
  *,
  uses: tuple[bool, bool],
  tiles: Tiles | None,
):
  """Computes the sums of slopes times y, as `attnjax.core.contrastive.gradients`."""
  tile = (tiles or fitting(x, y)).backward
  arrays = _arrays(tile, x, y, scale, rows, columns, mask)
  R, D = arrays[3].shape
  found = calling.triton(
    *arrays,
    *(_padded(z.astype(jnp.float32), tile.rows) for z in own),
    *(_padded(z.astype(jnp.float32), tile.columns) for z in others),
    kernel=backward_kernel,
    out_type=jax.ShapeDtypeStruct((R, D), jnp.float32),
    grid=(R // tile.rows * -(-D // tile.width),),
    name="contrastive_backward",
    WIDTH=tile.width,
    BY_ROWS=uses[0],
    BY_COLUMNS=uses[1],
    **_constants(tile, arrays, y.shape[0]),
  )
  return found[: x.shape[0], : x.shape[1]]


def _constants(tile: Tile, arrays, C: int) -> dict[str, Any]:
  """Returns the scalars, constants and options that both kernels take."""
  x, y = arrays[3:5]
  return dict(
    C=C,
    D=x.shape[1],
    C_PAD=y.shape[0],
    ROWS=tile.rows,
    COLUMNS=tile.columns,
    DEPTH=tile.depth,
    GROUPED=arrays[7] is not None,
    MASKED=arrays[9] is not None,
    RAGGED=C != y.shape[0],
    # Three products of the tensor cores' 19-bit floats give float32's precision.
    PRECISION="tf32x3" if x.dtype == jnp.float32 else "ieee",
    warps=tile.warps,
    stages=tile.stages,
  )


def _arrays(tile: Tile, x, y, scale, rows: Marks, columns: Marks, mask):
  """Returns the arrays that both kernels read, padded to whole tiles."""
  _check(tile)
  sides = (rows, tile.rows), (columns, tile.columns)
  if mask is not None:
    mask = _padded(mask, tile.rows, tile.columns)
  return (
    *(spans(marks.label, size).reshape(-1) for marks, size in sides),
    scale.astype(jnp.float32).reshape(1),
    _padded(x, tile.rows, tile.depth),
    _padded(y, tile.columns, tile.depth),
    # Padding equals no label: not that of a query without one, either.
    *(_padded(marks.label, size, fill=-2) for marks, size in sides),
    *(
      None if marks.group is None else _padded(marks.group, size, fill=-3)
      for marks, size in sides
    ),
    mask,
  )


def _check(tile: Tile) -> None:
  """Raises ValueError, naming value and rule, for a tile that cannot run."""
  for field in ("rows", "columns", "depth", "width"):
    value = getattr(tile, field)
    if value < 16 or value & (value - 1):
      raise ValueError(f"tile.{field} {value} must be a power of two, at least 16")


def _padded(x, *sizes: int, fill=0):
  """Returns an array padded at its ends to multiples of the sizes."""
  widths = [(0, -n % size) for n, size in zip(x.shape, sizes)]
  return jnp.pad(x, widths, constant_values=fill)


def _power(size: int) -> int:
  """Returns the least power of two that is at least `size` and at least 16."""
  return max(16, 1 << (size - 1).bit_length())


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
