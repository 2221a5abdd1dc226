"""InfoNCE on TPUs: Pallas kernels for Mosaic, forward and backward."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnjax.core.contrastive import Marks, Slopes, spans
from pallas_kernels import calling
from pallas_kernels.contrastive import mosaic_tpu_kernel as kernels
from pallas_kernels.contrastive.mosaic_tpu_kernel import LANES, Plan

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernels.

  Attributes:
    rows: of a tile, a multiple of 128.
    columns: of a tile, a multiple of `piece`.
    piece: columns that are worked on at once, a multiple of 128.
    memory: bytes of fast memory (VMEM) that a kernel may take.
  """

  rows: int
  columns: int
  piece: int
  memory: int = 56 << 20


def supports(q, items) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  calling.check_types("pallas", DTYPES, q=q, items=items)
  tiles = Tiles(LANES, LANES, LANES)
  if estimate(tiles, q.shape[1], q.dtype) > tiles.memory:
    raise NotImplementedError(
      f"impl 'pallas': D is {q.shape[1]}; fast memory holds no tile of such rows"
    )


def fitting(x, y) -> Tiles:
  """Returns the default tiles for rows x (R, D) and columns y (C, D)."""
  exact = x.dtype != jnp.bfloat16
  rows, columns = min(512, _ceil(x.shape[0], LANES)), 512 if exact else 1024
  piece = min(256, _ceil(y.shape[0], LANES))
  columns = min(columns, _ceil(y.shape[0], piece))
  tiles = Tiles(rows, columns, piece)
  while estimate(tiles, x.shape[1], x.dtype) > 40 << 20:
    if tiles.columns > tiles.piece:
      columns = _ceil(tiles.columns // 2, tiles.piece)
      tiles = dataclasses.replace(tiles, columns=columns)
    elif tiles.rows > LANES:
      tiles = dataclasses.replace(tiles, rows=_ceil(tiles.rows // 2, LANES))
    else:
      return Tiles(LANES, LANES, LANES)
  return tiles


def estimate(tiles: Tiles, D: int, dtype) -> int:
  """Returns an upper bound of the kernels' VMEM in bytes."""
  size = 4 if jnp.dtype(dtype).itemsize == 4 or dtype == jnp.float16 else 2
  D = _ceil(D, LANES)
  arrays = 2 * size * D * (tiles.rows + tiles.columns) + 2 * 4 * D * tiles.rows
  lines = 4 * tiles.rows * 8 * LANES + 2 * 4 * 8 * 8 * (tiles.rows + tiles.columns)
  live = 8 * 4 * tiles.rows * tiles.piece + 2 * tiles.rows * tiles.columns
  return arrays + lines + live + 8 * D * tiles.rows + (1 << 20)


def forward(
  x, y, scale, rows: Marks, columns: Marks, mask, *, positive: bool, tiles: Tiles | None
):
  """Computes (top, total, positive), see `attnjax.core.contrastive.gradients`."""
  tiles = tiles or fitting(x, y)
  plan = _plan(x, y, rows, mask, tiles, positive=positive)
  specs, arrays = _arrays(plan, x, y, scale, rows, columns, mask)
  line = jax.ShapeDtypeStruct((1, _ceil(x.shape[0], tiles.rows)), jnp.float32)
  found = _call(
    plan,
    kernels.forward,
    specs,
    [_line(tiles.rows, 0)] * 3,
    [line] * 3,
    [*_marks(plan), *[pltpu.VMEM((tiles.rows, LANES), jnp.float32)] * 3],
    tiles,
    2,
    arrays,
  )
  return tuple(z[0, : x.shape[0]] for z in found)


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
  tiles = tiles or fitting(x, y)
  plan = _plan(x, y, rows, mask, tiles, uses=uses)
  specs, arrays = _arrays(plan, x, y, scale, rows, columns, mask)
  specs += [_line(tiles.rows, 0)] * 3 + [_line(tiles.columns, 1)] * 3
  arrays += [_pad(z, tiles.rows) for z in own]
  arrays += [_pad(z, tiles.columns) for z in others]
  wide = arrays[3].shape
  found = _call(
    plan,
    kernels.backward,
    specs,
    [pl.BlockSpec((tiles.rows, wide[1]), lambda i, j, *_: (i, 0))],
    [jax.ShapeDtypeStruct(wide, jnp.float32)],
    [*_marks(plan), *[pltpu.VMEM((tiles.rows, LANES), jnp.float32)] * 3],
    tiles,
    4,
    arrays,
  )
  return found[0][: x.shape[0], : x.shape[1]]


def _call(plan, kernel, specs, outputs, shapes, scratch, tiles, products, arrays):
  """Returns the results of a kernel on the arrays, the first two being spans."""
  grid = arrays[3].shape[0] // plan.rows, arrays[4].shape[0] // plan.columns
  scores = grid[0] * plan.rows * grid[1] * plan.columns
  return pl.pallas_call(
    functools.partial(kernel, plan),
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=grid,
      in_specs=specs,
      out_specs=outputs,
      scratch_shapes=scratch,
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"),
      vmem_limit_bytes=tiles.memory + (8 << 20),
    ),
    cost_estimate=calling.cost(
      products * scores * arrays[3].shape[1], products // 2 * scores, (arrays, shapes)
    ),
    name=f"contrastive_{kernel.__name__}",
  )(*arrays)


def _plan(x, y, rows: Marks, mask, tiles: Tiles, **how: Any) -> Plan:
  """Returns the plan of a kernel; raises ValueError for tiles that cannot run."""
  for field, unit in (("rows", LANES), ("piece", LANES), ("columns", tiles.piece)):
    value = getattr(tiles, field)
    if value < 1 or value % unit:
      raise ValueError(f"tiles.{field} {value} is not a multiple of {unit}")
  need = estimate(tiles, x.shape[1], x.dtype)
  if need > tiles.memory:
    raise ValueError(
      f"tiles {tiles} need {need / 2**20:.1f} MiB of fast memory for D = {x.shape[1]}"
    )
  C = y.shape[0]
  flags = C % tiles.columns != 0, rows.group is not None, mask is not None
  exact = x.dtype != jnp.bfloat16
  return Plan(tiles.rows, tiles.columns, tiles.piece, C, *flags, exact, **how)


def _arrays(plan: Plan, x, y, scale, rows: Marks, columns: Marks, mask):
  """Returns (the specs, the padded arrays after the spans) that both kernels read."""
  row, column = _line(plan.rows, 0), _line(plan.columns, 1)
  x, y = (_wide(z, n) for z, n in ((x, plan.rows), (y, plan.columns)))
  specs: list[Any] = [
    pl.BlockSpec(memory_space=pltpu.SMEM),
    pl.BlockSpec((plan.rows, x.shape[1]), lambda i, j, *_: (i, 0)),
    pl.BlockSpec((plan.columns, y.shape[1]), lambda i, j, *_: (j, 0)),
    *(row, column),
    *((row, column) if plan.grouped else (None, None)),
    pl.BlockSpec((plan.rows, plan.columns), lambda i, j, *_: (i, j))
    if plan.masked
    else None,
  ]
  arrays = [
    *(spans(m.label, n).reshape(-1) for m, n in _sides(plan, rows, columns)),
    scale.astype(jnp.float32).reshape(1),
    *(x, y),
    # Padding equals no label: not that of a query without one, either.
    *(_pad(m.label, n, -2) for m, n in _sides(plan, rows, columns)),
    *(_pad(m.group, n, -3) for m, n in _sides(plan, rows, columns)),
    _wide(mask, plan.rows, plan.columns),
  ]
  return specs, arrays


def _sides(plan: Plan, rows: Marks, columns: Marks):
  return (rows, plan.rows), (columns, plan.columns)


def _marks(plan: Plan):
  """Returns the scratch of the rows' labels and groups."""
  lines = pltpu.VMEM((plan.rows, LANES), jnp.int32)
  return lines, lines if plan.grouped else pltpu.VMEM((8, LANES), jnp.int32)


def _line(size: int, axis: int):
  """Returns the spec of a line (1, n) in tiles along an axis of the grid."""
  return pl.BlockSpec((1, size), lambda i, j, *_: (0, (i, j)[axis]))


def _pad(line, size: int, fill=0):
  """Returns a vector as a line (1, n), padded to whole tiles; None for None."""
  if line is None:
    return None
  width = _ceil(line.shape[0], size) - line.shape[0]
  line = line.astype(jnp.int32 if fill else jnp.float32)
  return jnp.pad(line, (0, width), constant_values=fill)[None]


def _wide(x, rows: int, columns: int = LANES):
  """Returns a matrix padded to whole tiles; float16, which TPUs lack, as float32."""
  if x is None:
    return None
  x = x.astype(jnp.float32) if x.dtype == jnp.float16 else x
  sizes = zip(x.shape, (rows, columns))
  return jnp.pad(x, [(0, _ceil(n, unit) - n) for n, unit in sizes])


def _ceil(n: int, unit: int) -> int:
  """Returns the least multiple of `unit` that is at least n."""
  return -(-n // unit) * unit


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
