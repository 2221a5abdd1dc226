"""Fused softmax attention on GPUs: Triton kernels called through jax-triton.

The kernels are described in forward_kernel.py, queries_kernel.py, keys_kernel.py,
tables_kernel.py and decode_kernel.py. They read and write the public layout
(B, T, N, H), without transposed or padded copies.

NaN and infinity reach the queries that see them, and no others: a query that sees a
key, value or bias with one gets NaN; for a query that does not see it, output and
gradient are unchanged. Tiles that are seen in full need nothing for that. Where a mask
applies, rows of the walked tile that are not finite are zeroed, since 0 times NaN is
NaN, and the NaN is added to the scores of the queries that see them. That costs about
half as many instructions again in those tiles, of which a causal mask has one in a row
of blocks; checking all keys beforehand would read them once more from memory.
"""

import math

import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash.triton_gpu import decode, launch
from pallas_kernels.flash.triton_gpu.codegen import write
from pallas_kernels.flash.triton_gpu.default_tiles import defaults
from pallas_kernels.flash.triton_gpu.tiles import (
  Tile,
  Tiles,
  cells_of,
  check,
  device,
  estimate,
)

__all__ = ["KERNEL", "Tile", "Tiles", "backward", "check", "defaults"]
__all__ += ["device", "estimate", "fitting", "forward", "supports"]

LOG2E = math.log2(math.e)
_TYPES = ("float32", "bfloat16", "float16")


def supports(q, k, v, program) -> None:
  """Raises NotImplementedError, with the reason, if the kernels cannot do a problem."""
  calling.check_types("triton", _TYPES, q=q, k=k, v=v)
  if not q.dtype == k.dtype == v.dtype:
    raise NotImplementedError(
      f"impl 'triton': q, k, v have the types {q.dtype}, {k.dtype}, {v.dtype}; "
      "they must be one"
    )
  # Three products of float32 need both parts of each factor at a time.
  most = 128 if q.dtype == jnp.float32 else 256
  for name, size in (("H", q.shape[3]), ("V", v.shape[3])):
    if size > most:
      raise NotImplementedError(
        f"impl 'triton': {name} is {size}; registers hold heads of {q.dtype} up to"
        f" {most}; impl 'xla' takes any"
      )
  write(program)


def fitting(q, k, v, program) -> Tiles:
  """Returns default tiles for arrays, or their shapes, on the target device."""
  shape = q.shape[1], k.shape[1], q.shape[3], v.shape[3]
  heavy = program.score is not None or program.keep is not None
  given = shape, q.dtype, device(), heavy, cells_of(program)
  return defaults(*given, operands=bool(program.operands))


def forward(q, k, v, sinks, program, schedule, *, scale: float, tiles: Tiles):
  """Computes attention, the rows' greatest scores and the sums of exp(score - top).

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H), K a divisor of N.
    v: (B, S, K, V).
    sinks: (N,) float32, or None.
    program: the scores' program, see `attnjax.core.scores.Program`.
    schedule: blocks (tiles.forward.block_q, a multiple of tiles.forward.block_k).
    scale: what q . k is multiplied by.
    tiles: tile sizes of all kernels.

  Returns:
    (out (B, T, N, V) in v's dtype, top (B, T, N) float32, total (B, T, N) float32).
  """
  given = q.shape[3], v.shape[3], q.dtype, device(), cells_of(program)
  check(tiles, *given)
  source, tile = write(program), tiles.forward
  arrays = q, k, v, sinks, program, source, schedule
  split = decode.Split.of(q, k, v, schedule, tile, given[3:])
  if split is not None:
    return decode.forward(*arrays, split, scale)
  return launch.forward(*arrays, scale, tile)


def backward(
  q, k, v, g, top, total, delta, program, schedule, *, scale: float, tiles: Tiles
):
  """Computes the gradients of `forward`.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H).
    v: (B, S, K, V).
    g: (B, T, N, V), the cotangent of out.
    top: (B, T, N) float32, from `forward`.
    total: (B, T, N) float32, from `forward`.
    delta: (B, T, N) float32, the row sums of g out less total times its cotangent.
    program: as in `forward`.
    schedule: blocks (tiles.queries.block_q, tiles.keys.block_k) or multiples.
    scale: what q . k is multiplied by.
    tiles: tile sizes of all kernels.

  Returns:
    (dq, dk, dv, doperands); doperands has None for operands that are not floats.
  """
  check(tiles, q.shape[3], v.shape[3], q.dtype, device(), cells_of(program))
  source = write(program)
  length = schedule.index.shape[2] * schedule.block_q
  lines = _lines(top, total, delta, length)
  given = q, k, v, g.astype(v.dtype), *lines
  dq, rows = launch.queries(given, program, source, schedule, scale, tiles.queries)
  dk, dv, columns = launch.keys(given, program, source, schedule, scale, tiles)
  doperands: list = [None] * len(program.operands)
  for sums, found, expand in (
    (source.along_queries, rows, (..., slice(None), None)),
    (source.along_keys, columns, (..., None, slice(None))),
  ):
    for c, i in enumerate(sums.operands):
      doperands[i] = _summed(found[c][expand], program.operands[i].shape)
  tables = launch.tables(given, program, source, schedule, scale, tiles.queries)
  for (_, sums), found in zip(source.tables, tables):
    for c, i in enumerate(sums.operands):
      doperands[i] = found[c]
  for i, operand in enumerate(program.operands):
    if doperands[i] is None and jnp.issubdtype(operand.dtype, jnp.floating):
      doperands[i] = jnp.zeros(operand.shape, jnp.float32)
  return dq, dk, dv, tuple(doperands)


def _lines(top, total, delta, length: int):
  """Returns (top / 128, log2(total), delta) for the kernels, each (B, N, length)."""
  # Rows without weight, and padding of the last block, get log2(total) = +inf.
  empty = total == 0
  low = jnp.where(empty, jnp.inf, jnp.log(jnp.where(empty, 1, total)) * LOG2E)
  top = jnp.where(empty, 0, top / 128)
  widths = (0, 0), (0, 0), (0, length - top.shape[1])
  return tuple(
    jnp.pad(x.swapaxes(1, 2), widths, constant_values=fill)
    for x, fill in ((top, 0.0), (low, jnp.inf), (delta, 0.0))
  )


def _summed(gradient, shape):
  """Adds up (B, N, T|1, S|1) over the axes on which the operand was broadcast."""
  axes = [a for a in range(4) if shape[a] == 1 and gradient.shape[a] > 1]
  return gradient.sum(axes, keepdims=True) if axes else gradient


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
