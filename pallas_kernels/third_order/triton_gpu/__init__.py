"""Third-order attention on GPUs: Triton kernels called through jax-triton."""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.third_order import Sight, folded, unfolded
from pallas_kernels import calling
from pallas_kernels.third_order.triton_gpu.forward_kernel import forward_kernel
from pallas_kernels.third_order.triton_gpu.keys_kernel import keys_kernel
from pallas_kernels.third_order.triton_gpu.queries_kernel import queries_kernel
from pallas_kernels.third_order.triton_gpu.tiles import (
  DTYPES,
  WIDEST,
  Tile,
  Tiles,
  ceil,
  check,
  defaults,
  power,
)

__all__ = ["KERNEL", "Tile", "Tiles", "backward", "fitting", "forward", "supports"]


def supports(q, k1, k2, v1, v2) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  given = {"q": q, "k1": k1, "k2": k2, "v1": v1, "v2": v2}
  calling.check_types("triton", DTYPES, **given)
  for name, size in (("H", q.shape[3]), ("V", v1.shape[3])):
    if size > WIDEST:
      raise NotImplementedError(f"impl 'triton': {name} is {size}, at most {WIDEST}")
  programs = k1.shape[0] * k1.shape[1] * k1.shape[2]
  if programs >= 2**31:
    raise NotImplementedError(
      f"impl 'triton': a program a key, {programs}; a grid has fewer than 2^31"
    )


def fitting(q, k1, k2, v1, v2) -> Tiles:
  """Returns the default tiles for arrays, or their shapes, on the target device."""
  rows = q.shape[1] * (q.shape[2] // k1.shape[2])
  return defaults(rows, k1.shape[1], q.shape[3], v1.shape[3], _type(q, k1, k2, v1, v2))


def forward(
  q, k1, k2, v1, v2, data, *, sight: Sight, tiles: Tiles | None
) -> tuple[Any, Any, Any]:
  """Computes (out, top, total), see `attnjax.core.third_order.gradients`."""
  tile = (tiles or fitting(q, k1, k2, v1, v2)).forward
  how = _constants(q, k1, v1, data, sight, tile)
  arrays = _arrays(q, k1, k2, v1, v2, data, sight, tile)
  rows = arrays[1]
  line = jax.ShapeDtypeStruct(rows.shape[:2], jnp.float32)
  out = jax.ShapeDtypeStruct((*rows.shape[:2], how["V"]), rows.dtype)
  found = calling.triton(
    *arrays,
    kernel=forward_kernel,
    out_type=(out, line, line),
    grid=(rows.shape[0] * (rows.shape[1] // tile.rows),),
    name="third_order_forward",
    **how,
  )
  out, top, total = (unfolded(x, q) for x in found)
  return out[..., : v1.shape[3]].astype(v1.dtype), top, total


def backward(
  q, k1, k2, v1, v2, g, top, share, delta, data, *, sight: Sight, tiles: Tiles | None
) -> tuple[Any, ...]:
  """Computes the gradients, see `attnjax.core.third_order.gradients`."""
  tiles = tiles or fitting(q, k1, k2, v1, v2)
  lines = g, top, share, delta
  dq = _queries((q, k1, k2, v1, v2), lines, data, sight, tiles.queries)
  dk1, dv1 = _keys((q, k1, k2, v1, v2), lines, data, sight, tiles.keys)
  exchanged = q, k2, k1, v2, v1
  dk2, dv2 = _keys(exchanged, lines, data, sight.swapped, tiles.keys)
  return dq, dk1, dk2, dv1, dv2


def _queries(x, lines, data, sight: Sight, tile: Tile):
  """Computes dq."""
  q, k1, _, v1, _ = x
  how = _constants(q, k1, v1, data, sight, tile)
  arrays = (
    *_arrays(*x, data, sight, tile),
    *_lines(lines, k1, tile, _type(*x)),
  )
  rows = arrays[1]
  dq = calling.triton(
    *arrays,
    kernel=queries_kernel,
    out_type=jax.ShapeDtypeStruct(rows.shape, rows.dtype),
    grid=(rows.shape[0] * (rows.shape[1] // tile.rows),),
    name="third_order_queries",
    **how,
  )
  return unfolded(dq, q)[..., : q.shape[3]].astype(q.dtype)


def _keys(x, lines, data, sight: Sight, tile: Tile):
  """Computes dk and dv of the first stream."""
  q, k1, _, v1, _ = x
  how = _constants(q, k1, v1, data, sight, tile)
  arrays = (
    *_arrays(*x, data, sight, tile),
    *_lines(lines, k1, tile, _type(*x)),
  )
  found = calling.triton(
    *arrays,
    kernel=keys_kernel,
    out_type=tuple(jax.ShapeDtypeStruct(arrays[n].shape, jnp.float32) for n in (2, 4)),
    grid=(arrays[2].shape[0] * k1.shape[1],),
    name="third_order_keys",
    **how,
  )
  dk, dv = (unfolded(y, like)[..., : like.shape[3]] for y, like in zip(found, (k1, v1)))
  return dk.astype(k1.dtype), dv.astype(v1.dtype)


def _type(*arrays):
  """Returns the type of the products' operands."""
  return jnp.result_type(*arrays)


def _constants(q, k1, v1, data, sight: Sight, tile: Tile) -> dict[str, Any]:
  """Returns a kernel's scalars, constants and options by name."""
  check(tile)
  group, dtype = q.shape[2] // k1.shape[2], _type(q, k1, v1)
  return dict(
    R=q.shape[1] * group,
    S=k1.shape[1],
    H=power(q.shape[3]),
    V=power(v1.shape[3]),
    HEADS=k1.shape[2],
    GROUP=group,
    LENGTH=ceil(k1.shape[1], tile.second),
    W1=sight.windows[0],
    W2=sight.windows[1],
    CAUSAL=sight.causal,
    PACKED=data[0] is not None,
    ROWS=tile.rows,
    SECOND=tile.second,
    SCALE=abs(sight.scale),
    # Three products of the tensor cores' 19-bit floats give float32's precision.
    PRECISION="tf32x3" if dtype == jnp.float32 else "ieee",
    warps=tile.warps,
    stages=tile.stages,
  )


def _arrays(q, k1, k2, v1, v2, data, sight: Sight, tile: Tile):
  """Returns the arrays that all kernels read, padded."""
  K, dtype = k1.shape[2], _type(q, k1, k2, v1, v2)
  ids, offset = data
  start = jnp.asarray(sight.offset if offset is None else offset, jnp.int32).reshape(1)
  # A negative scale would exchange the greatest and the least scores.
  q = (q if sight.scale >= 0 else -q).astype(dtype)
  keys = (_end(folded(x.astype(dtype), K), tile.second) for x in (k1, k2, v1, v2))
  own = others = None
  if ids is not None:
    own = _line(jnp.repeat(ids[0], q.shape[2] // K, axis=1), tile.rows, -1)
    others = _line(ids[1], tile.second, -1)
  return start, _end(folded(q, K), tile.rows), *keys, own, others, others


def _lines(lines, k1, tile: Tile, dtype):
  """Returns g, top, share and delta of rows; padding has 0."""
  g, *rest = (folded(x, k1.shape[2]) for x in lines)
  return _end(g.astype(dtype), tile.rows), *(_line(x, tile.rows, 0) for x in rest)


def _end(x, size: int):
  """Pads (U, S, H) at the ends, S to a multiple, H to a power of two from 16 on."""
  rows, columns = ceil(x.shape[1], size), power(x.shape[2])
  return jnp.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, columns - x.shape[2])))


def _line(x, size: int, fill):
  """Pads (U, R) at its end to a multiple of `size`."""
  widths = ((0, 0), (0, ceil(x.shape[1], size) - x.shape[1]))
  return jnp.pad(x, widths, constant_values=fill)


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
