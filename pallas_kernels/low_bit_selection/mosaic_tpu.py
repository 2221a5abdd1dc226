"""Low-bit selection on TPUs: a Pallas kernel for Mosaic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import calling
from pallas_kernels.low_bit_selection import mosaic_tpu_kernel as kernels

LANES, SUBLANES = 128, 8
# A step's blocks of queries fill the sublanes of a map's tile, those of keys its lanes.
MOST_ROWS = 128


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The sizes of what the kernel works on.

  Attributes:
    columns: keys of an inner step, a multiple of 128, whole blocks.
    memory: bytes of fast memory (VMEM) that the kernel may take.
  """

  columns: int = 512
  memory: int = 48 << 20


def supports(q, k, block_q: int, block_k: int) -> None:
  """Raises NotImplementedError, with the reason, for what the kernel cannot do."""
  calling.check_types("pallas", ("int8",), q=q, k=k)
  if block_q % SUBLANES or block_q > MOST_ROWS:
    raise NotImplementedError(
      f"impl 'pallas': block_q is {block_q}; it takes multiples of {SUBLANES} up to"
      f" {MOST_ROWS}"
    )
  if LANES % block_k:
    raise NotImplementedError(
      f"impl 'pallas': block_k is {block_k}; it takes divisors of {LANES}"
    )
  need = estimate(Tiles(), q.shape[3], block_q, block_k)
  if need > Tiles().memory:
    raise NotImplementedError(
      f"impl 'pallas': H is {q.shape[3]}; fast memory holds no tile of such heads"
    )


def fitting(q, k, block_q: int, block_k: int) -> Tiles:
  """Returns the default tiles."""
  del q, k, block_q
  return Tiles(min(512, LANES * block_k))


def estimate(tiles: Tiles, size: int, block_q: int, block_k: int) -> int:
  """Returns an upper bound of the kernel's VMEM in bytes."""
  rows, keys, width = SUBLANES * block_q, LANES * block_k, _up(size, LANES)
  codes = 2 * (rows + keys) * width
  lines = 2 * 4 * SUBLANES * 4 * (rows + keys)
  spreads = 2 * rows * LANES * 4
  return codes + lines + spreads + 6 * rows * tiles.columns * 4


def forward(
  q,
  k,
  q_scale,
  k_scale,
  bias,
  least,
  last,
  *,
  block_q: int,
  block_k: int,
  rounded: bool,
  tiles: Tiles,
):
  """Computes the map, int32 (B, N, Q, S); the arrays are those of `prepared`.

  Raises:
    ValueError: if tiles do not fit.
  """
  (B, T, N, H), K, Q = q.shape, k.shape[2], last.shape[1]
  rows, keys, size = _sizes(tiles, T, block_q, block_k)
  steps = -(-T // rows), -(-T // keys)
  T_q, T_k, width = steps[0] * rows, steps[1] * keys, _up(H, LANES)
  packed = _codes(q, T_q, width), _codes(k, T_k, width)
  lines = [
    _line(q_scale, T_q, 0.0),
    _line(least, T_q, jnp.inf),
    _line(k_scale, T_k, 0.0),
    _line(bias, T_k, 0.0),
  ]
  last = jnp.pad(last.astype(jnp.int32), ((0, 0), (0, steps[0] * SUBLANES - Q)))
  final = last.reshape(-1, steps[0], SUBLANES).max(axis=2)
  shape = jax.ShapeDtypeStruct((B, N, steps[0] * SUBLANES, steps[1] * LANES), jnp.int32)
  one = last.shape[0] == 1
  plan = kernels.Plan(block_q, block_k, size, keys, rounded, one, steps[0])
  found = pl.pallas_call(
    functools.partial(kernels.select, plan),
    out_shape=shape,
    grid_spec=_grid((B, N, *steps), rows, keys, width, N // K),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel",) * 4, vmem_limit_bytes=tiles.memory
    ),
    cost_estimate=calling.cost(2.0 * B * N * T_q * T_k * width, 0, (*packed, shape)),
    name="low_bit_selection",
  )(final.reshape(-1), *packed, *lines)
  number = jnp.arange(-(-T // block_k))
  inside = (number >= 1) & (number <= last[:, None, :Q, None])
  found = _joined(found, keys // block_k)[:, :, :Q, : number.size]
  return jnp.where(inside, found, 0)


def _sizes(tiles: Tiles, T: int, block_q: int, block_k: int) -> tuple[int, int, int]:
  """Returns the queries and the keys of a program, and the keys of a product."""
  if tiles.columns < 1 or tiles.columns % LANES or LANES * block_k % tiles.columns:
    raise ValueError(
      f"tiles.columns {tiles.columns}; it must divide {LANES} blocks of {block_k} keys,"
      f" in lanes of {LANES}"
    )
  size = min(tiles.columns, _up(T, LANES))
  return SUBLANES * block_q, min(LANES * block_k, _up(T, size)), size


def _grid(grid: tuple[int, ...], rows: int, keys: int, width: int, group: int):
  """Returns the programs (B, N, tiles of queries, of keys), and what they read."""

  def of_key(b, n, i, j, *_):
    return b, jax.lax.div(n, group), j, 0

  row = pl.BlockSpec((None, None, 1, rows), lambda b, n, i, j, *_: (b, n, 0, i))
  column = pl.BlockSpec((None, None, 1, keys), lambda b, n, i, j, *_: (b, n, 0, j))
  scales = pl.BlockSpec(
    (None, None, 1, keys), lambda b, n, i, j, *_: (b, jax.lax.div(n, group), 0, j)
  )
  return pltpu.PrefetchScalarGridSpec(
    num_scalar_prefetch=1,
    grid=grid,
    in_specs=[
      pl.BlockSpec((None, None, rows, width), lambda b, n, i, j, *_: (b, n, i, 0)),
      pl.BlockSpec((None, None, keys, width), of_key),
      row,
      row,
      scales,
      column,
    ],
    out_specs=pl.BlockSpec(
      (None, None, SUBLANES, LANES), lambda b, n, i, j, *_: (b, n, i, j)
    ),
  )


def _joined(found, blocks: int):
  """Returns a map (B, N, Q, steps 128) without lanes that hold no block."""
  if blocks == LANES:
    return found
  parts = found.reshape(*found.shape[:3], -1, LANES)[..., :blocks]
  return parts.reshape(*found.shape[:3], -1)


def _up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def _codes(x, length: int, width: int):
  """Returns codes (B, T, N, H) as (B, N, length, width), padded with zeros."""
  x = x.swapaxes(1, 2)
  widths = (0, 0), (0, 0), (0, length - x.shape[2]), (0, width - x.shape[3])
  return jnp.pad(x, widths)


def _line(x, length: int, fill: float):
  """Returns numbers (B, T, N) as (B, N, 1, length)."""
  x = x.astype(jnp.float32).swapaxes(1, 2)
  widths = (0, 0), (0, 0), (0, length - x.shape[2])
  return jnp.pad(x, widths, constant_values=fill)[:, :, None]


def backward(*arrays, **constants):
  """Raises NotImplementedError: what is selected has no derivative."""
  raise NotImplementedError("a selection of blocks has no derivative")


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
