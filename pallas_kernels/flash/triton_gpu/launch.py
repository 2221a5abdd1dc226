"""Calls of the kernels, with constants from shapes, programs and schedules."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash.triton_gpu.codegen import NOTHING
from pallas_kernels.flash.triton_gpu.constants import Form, Width
from pallas_kernels.flash.triton_gpu.forward_kernel import forward_kernel
from pallas_kernels.flash.triton_gpu.keys_kernel import keys_kernel
from pallas_kernels.flash.triton_gpu.queries_kernel import queries_kernel
from pallas_kernels.flash.triton_gpu.tables_kernel import tables_kernel
from pallas_kernels.flash.triton_gpu.tiles import Tile

# A table that many heads share is summed in groups: _PROGRAMS programs keep a GPU busy,
# and up to _BYTES bytes of sums are affordable.
_PROGRAMS, _BYTES = 1024, 1 << 26


def forward(q, k, v, sinks, program, source, schedule, scale, tile):
  """Launches the forward kernel; returns (out, top, total)."""
  B, N, T, S = shape_of(q, k)
  return calling.triton(
    q,
    k,
    v,
    sinks,
    schedule.index,
    schedule.full,
    schedule.count,
    program.operands,
    kernel=forward_kernel,
    out_type=(
      jax.ShapeDtypeStruct((B, T, N, v.shape[3]), v.dtype),
      jax.ShapeDtypeStruct((B, T, N), jnp.float32),
      jax.ShapeDtypeStruct((B, T, N), jnp.float32),
    ),
    grid=(schedule.index.shape[2] * B * N,),
    name="flash_forward",
    T=T,
    S=S,
    rows=rows_of(schedule.index),
    F=form(q, v, source, scale, tile, schedule, "k"),
    warps=tile.warps,
    stages=tile.stages,
  )


def queries(given, program, source, schedule, scale, tile):
  """Returns (dq, gradients of the operands along queries: sums over keys)."""
  q, k, v, *_ = given
  B, N, T, S = shape_of(q, k)
  sums = source.along_queries
  return calling.triton(
    *given,
    schedule.index,
    schedule.full,
    schedule.count,
    program.operands,
    kernel=queries_kernel,
    out_type=(jax.ShapeDtypeStruct(q.shape, q.dtype), _buffer(sums, (B, N, T))),
    grid=(schedule.index.shape[2] * B * N,),
    name="flash_backward_queries",
    T=T,
    S=S,
    rows=rows_of(schedule.index),
    length=given[4].shape[2],
    F=form(q, v, source, scale, tile, schedule, "k", sums),
    warps=tile.warps,
    stages=tile.stages,
  )


def keys(given, program, source, schedule, scale, tiles):
  """Returns (dk, dv, sums over queries) by one launch, or two where tiles are apart."""
  if not tiles.apart:
    return _keys_of(given, program, source, schedule, scale, tiles.keys, "kv")
  dk, _, sums = _keys_of(given, program, source, schedule, scale, tiles.keys, "k")
  _, dv, _ = _keys_of(given, program, source, schedule, scale, tiles.keys, "v")
  return dk, dv, sums


def _keys_of(given, program, source, schedule, scale, tile, wanted: str):
  q, k, v, *_ = given
  B, N, T, S = shape_of(q, k)
  sums = source.along_keys if "k" in wanted else NOTHING
  nothing = jax.ShapeDtypeStruct((1,), k.dtype)
  more = dict(want_k="k" in wanted, want_v="v" in wanted)
  return calling.triton(
    *given,
    schedule.index_t,
    schedule.full_t,
    schedule.count_t,
    program.operands,
    kernel=keys_kernel,
    out_type=(
      jax.ShapeDtypeStruct(k.shape, k.dtype) if "k" in wanted else nothing,
      jax.ShapeDtypeStruct(v.shape, v.dtype) if "v" in wanted else nothing,
      _buffer(sums, (B, N, S)),
    ),
    grid=(schedule.index_t.shape[2] * B * k.shape[2],),
    name=f"flash_backward_{'values' if wanted == 'v' else 'keys'}",
    T=T,
    S=S,
    rows=rows_of(schedule.index_t),
    length=given[4].shape[2],
    F=form(q, v, source, scale, tile, schedule, "q", sums, **more),
    warps=tile.warps,
    stages=tile.stages,
  )


def tables(given, program, source, schedule, scale, tile):
  """Returns the tables' gradients, for each entry of `source.tables`, in float32."""
  q, k, v, *_ = given
  B, N, T, S = shape_of(q, k)
  tile = dataclasses.replace(tile, block_k=tile.masked, stages=1)
  results = []
  for (own_b, own_n), sums in source.tables:
    shape = B if own_b else 1, N if own_n else 1
    members = B // shape[0], N // shape[1]
    pairs = -(-T // tile.block_q) * -(-S // tile.block_k)
    groups = _groups(math.prod(shape), pairs, members, T * S * len(sums.operands))
    (found,) = calling.triton(
      *given,
      schedule.index,
      schedule.full,
      schedule.count,
      program.operands,
      kernel=tables_kernel,
      out_type=(_buffer(sums, (*shape, groups, T, S)),),
      grid=(math.prod(shape) * groups * pairs,),
      name="flash_backward_tables",
      T=T,
      S=S,
      rows=rows_of(schedule.index),
      length=given[4].shape[2],
      members=(*members, groups),
      F=form(q, v, source, scale, tile, schedule, "k", sums, own_b=own_b, own_n=own_n),
      warps=tile.warps,
      stages=tile.stages,
    )
    results.append(found.sum(axis=3) if groups > 1 else found[:, :, :, 0])
  return results


def _groups(tables: int, pairs: int, members: tuple[int, int], size: int) -> int:
  """Returns the number of groups that the members of a table are summed in."""
  busy = -(-_PROGRAMS // (tables * pairs))
  return max(1, min(math.prod(members), busy, _BYTES // (4 * tables * size)))


def shape_of(q, k) -> tuple[int, int, int, int]:
  """Returns the sizes (B, N, T, S)."""
  B, T, N, _ = q.shape
  return B, N, T, k.shape[1]


def form(
  q, v, source, scale, tile: Tile, schedule, walked: str, sums=NOTHING, **more
) -> Form:
  """Returns the constants of a kernel that walks queries ("q") or keys ("k").

  Raises:
    ValueError: if a tile does not divide the schedule's block.
  """
  block, length = {
    "q": (schedule.block_q, q.shape[1]),
    "k": (schedule.block_k, v.shape[1]),
  }[walked]
  size = tile.block_q if walked == "q" else tile.block_k
  for part in (size, tile.masked):
    if block % part:
      raise ValueError(f"a tile of {part} does not divide the schedule's {block}")
  return Form(
    N=q.shape[2],
    K=v.shape[2],
    h=Width.of(q.shape[3]),
    v=Width.of(v.shape[3]),
    scale=float(scale),
    score=source.score,
    seen=source.seen,
    keep=source.keep,
    block_q=tile.block_q,
    block_k=tile.block_k,
    masked=tile.masked,
    steps=block // size,
    masked_steps=block // tile.masked,
    masked_stages=tile.masked_stages,
    # Three products of the tensor cores' 19-bit floats give float32's digits.
    precision="tf32x3" if q.dtype == jnp.float32 else "ieee",
    ragged=length % block != 0,
    even=v.shape[1] % 16 == 0,
    pull=sums.pull,
    start=sums.start,
    finish=sums.finish,
    **more,
  )


def rows_of(index) -> tuple[int, int, int]:
  """Returns (width of a row, row stride between examples, row stride between heads)."""
  batches, heads, _, most = index.shape
  return most, heads if batches > 1 else 0, 1 if heads > 1 else 0


def _buffer(sums, shape):
  """Returns the shape of one output for each operand of the sums, or of one element."""
  shape = (len(sums.operands), *shape) if sums.operands else (1,)
  return jax.ShapeDtypeStruct(shape, jnp.float32)
