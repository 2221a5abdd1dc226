"""Prefix softmax on TPUs: Pallas kernels for Mosaic, forward and backward."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnjax.core.recurrence.prefix import Weights
from pallas_kernels import calling
from pallas_kernels.prefix_softmax import mosaic_tpu_kernel as kernels

LANES = 128
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernels.

  Attributes:
    rows: tokens of a grid step, a multiple of the 128 tokens of a chunk.
    memory: bytes of fast memory (VMEM) that a kernel may take.
  """

  rows: int
  memory: int = 48 << 20


def supports(scores, values) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  calling.check_types("pallas", DTYPES, scores=scores, values=values)
  size = values.shape[3]
  if estimate(Tiles(LANES), size, values.dtype) > Tiles(LANES).memory:
    raise NotImplementedError(
      f"impl 'pallas': E is {size}; fast memory holds no chunk of such values"
    )


def fitting(values) -> Tiles:
  """Returns the default tiles for values (B, T, N, E), an array or its shape."""
  T, E = values.shape[1], values.shape[3]
  rows = 1024
  while rows > LANES and estimate(Tiles(rows), E, values.dtype) > 24 << 20:
    rows //= 2
  return Tiles(min(rows, _ceil(T)))


def estimate(tiles: Tiles, size: int, dtype) -> int:
  """Returns an upper bound of the backward kernel's VMEM in bytes, the larger one."""
  width = _ceil(size)
  blocks = 2 * 3 * tiles.rows * width * jnp.dtype(dtype).itemsize
  lines = 2 * 9 * 8 * tiles.rows * 4
  spilled = 8 * LANES * (4 * LANES + 4 * width)
  return blocks + lines + spilled + 4 * 8 * width * 4


def forward(weights: Weights, values, start, *, tiles: Tiles | None):
  """Computes (out, its last row), see `attnjax.core.recurrence.prefix.Form`."""
  B, T, N, E = values.shape
  tiles = tiles or fitting(values)
  _check(tiles, E, values.dtype)
  rows, width = -(-T // tiles.rows) * tiles.rows, _ceil(E)
  grid = B, N, rows // tiles.rows
  line, block, state, ids = _specs(tiles.rows, width, lambda i: i)
  lines = _lines(weights, rows)
  first = lines[-1]
  v = _pack(values, rows, width)
  out, last = pl.pallas_call(
    functools.partial(kernels.forward, first is not None),
    out_shape=(
      jax.ShapeDtypeStruct(v.shape, v.dtype),
      jax.ShapeDtypeStruct((B, N, 1, width), jnp.float32),
    ),
    grid=grid,
    in_specs=[*(line,) * 5, None if first is None else ids, block, state],
    out_specs=[block, state],
    scratch_shapes=[pltpu.VMEM((1, width), jnp.float32)],
    compiler_params=_parameters(tiles),
    cost_estimate=_cost(weights, v, (v, v)),
    name="prefix_softmax_forward",
  )(*lines, v, _state(start, width))
  return _unpack(out, values), last[:, :, 0, :E]


def backward(weights: Weights, values, g, delta, a, b, *, tiles: Tiles | None):
  """Computes (dscores, dvalues, A, b), see `attnjax.core.recurrence.prefix.Form`."""
  B, T, N, E = values.shape
  tiles = tiles or fitting(values)
  _check(tiles, E, values.dtype)
  rows, width = -(-T // tiles.rows) * tiles.rows, _ceil(E)
  number = rows // tiles.rows
  line, block, state, ids = _specs(tiles.rows, width, lambda i: number - 1 - i)
  lines = _lines(weights, rows)
  first = lines[-1]
  v, g = (_pack(x.astype(values.dtype), rows, width) for x in (values, g))
  scalar = pl.BlockSpec((None, None, 1, LANES), lambda b, n, i: (b, n, 0, 0))
  of_b = jnp.broadcast_to(b[:, :, None, None], (B, N, 1, LANES)).astype(jnp.float32)
  ds, dv, a, b = pl.pallas_call(
    functools.partial(kernels.backward, first is not None),
    out_shape=(
      jax.ShapeDtypeStruct((B, N, 1, rows), jnp.float32),
      jax.ShapeDtypeStruct(v.shape, v.dtype),
      jax.ShapeDtypeStruct((B, N, 1, width), jnp.float32),
      jax.ShapeDtypeStruct((B, N, 1, LANES), jnp.float32),
    ),
    grid=(B, N, number),
    in_specs=[
      *(*(line,) * 5, None if first is None else ids),
      *(block, block, line, state, scalar),
    ],
    out_specs=[line, block, state, scalar],
    scratch_shapes=[
      pltpu.VMEM((1, width), jnp.float32),
      pltpu.VMEM((1, LANES), jnp.float32),
    ],
    compiler_params=_parameters(tiles),
    cost_estimate=_cost(weights, v, (v, v, v)),
    name="prefix_softmax_backward",
  )(*lines, v, g, _line(delta, rows), _state(a, width), of_b)
  ds = ds[:, :, 0, :T].swapaxes(1, 2)
  return ds, _unpack(dv, values), a[:, :, 0, :E], b[:, :, 0, 0]


def _check(tiles: Tiles, size: int, dtype) -> None:
  """Raises ValueError, naming value and rule, for tiles that cannot run."""
  if tiles.rows < 1 or tiles.rows % LANES:
    raise ValueError(f"tiles.rows {tiles.rows} is not a multiple of {LANES}")
  need = estimate(tiles, size, dtype)
  if need > tiles.memory:
    raise ValueError(
      f"tiles.rows {tiles.rows} needs {need / 2**20:.1f} MiB of fast memory for E ="
      f" {size}, more than its limit of {tiles.memory / 2**20:.1f}"
    )


def _specs(rows: int, width: int, place):
  """Returns the specs of a line (B, N, 1, T), of values, of a state, of documents."""
  return (
    pl.BlockSpec((None, None, 1, rows), lambda b, n, i: (b, n, 0, place(i))),
    pl.BlockSpec((None, rows, width), lambda b, n, i: (b, place(i), n)),
    pl.BlockSpec((None, None, 1, width), lambda b, n, i: (b, n, 0, 0)),
    pl.BlockSpec((None, 1, rows), lambda b, n, i: (b, 0, place(i))),
  )


def _cost(weights: Weights, packed, arrays):
  pairs = packed.shape[1] * kernels.SIZE * weights.scores.shape[2] * packed.shape[0]
  width = packed.shape[2] // weights.scores.shape[2]
  return calling.cost(2 * pairs * width, pairs, (*arrays, weights))


def _parameters(tiles: Tiles):
  return pltpu.CompilerParams(
    dimension_semantics=("parallel", "parallel", "arbitrary"),
    vmem_limit_bytes=tiles.memory + (8 << 20),
  )


def _lines(weights: Weights, rows: int):
  """Returns the weights as lines (B, N, 1, rows); padding has the weight 0."""
  first, now = weights.first, (weights.top, weights.total)
  if rows > weights.scores.shape[1]:
    # `before` of the padding is the last token's: padding must not decay the state.
    before = (
      jnp.concatenate([x, y[:, -1:]], axis=1) for x, y in zip(weights.before, now)
    )
  else:
    before = weights.before
  return (
    _line(weights.scores, rows, -jnp.inf),
    *(_line(x, rows, None) for x in (weights.top, weights.share, *before)),
    None if first is None else _end(first[:, None], 2, rows, None),
  )


def _line(x, rows: int, fill: float | None = 0.0):
  """Returns (B, T, N) as (B, N, 1, rows), padded with `fill` or the last element."""
  return _end(x.astype(jnp.float32).swapaxes(1, 2), 2, rows, fill)[:, :, None]


def _state(x, width: int):
  """Returns (B, N, E) as (B, N, 1, width), padded with zeros."""
  return _end(x.astype(jnp.float32), 2, width)[:, :, None]


def _pack(x, rows: int, width: int):
  """Returns (B, T, N, E) as (B, rows, N width): a head is a slice of whole lanes."""
  B, _, N, _ = x.shape
  x = x.astype(jnp.float32) if x.dtype == jnp.float16 else x
  return _end(_end(x, 1, rows), 3, width).reshape(B, rows, N * width)


def _unpack(x, like):
  B, T, N, E = like.shape
  x = x.reshape(B, x.shape[1], N, -1)[:, :T, :, :E]
  return x.astype(like.dtype)


def _end(x, axis: int, size: int, fill: float | None = 0.0):
  """Pads an axis at its end to `size`, with `fill`, or the last element if None."""
  if x.shape[axis] == size:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, size - x.shape[axis])
  if fill is None:
    return jnp.pad(x, widths, mode="edge")
  return jnp.pad(x, widths, constant_values=fill)


def _ceil(n: int) -> int:
  return -(-n // LANES) * LANES


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
