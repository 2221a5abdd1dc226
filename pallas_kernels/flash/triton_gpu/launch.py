"""The calls of the kernels: constants from shapes, programs and schedules."""

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash.triton_gpu.form import Form, Width
from pallas_kernels.flash.triton_gpu.keys_kernel import keys_kernel
from pallas_kernels.flash.triton_gpu.program import Sums
from pallas_kernels.flash.triton_gpu.queries_kernel import queries_kernel
from pallas_kernels.flash.triton_gpu.tiles import Tile


def queries(given, program, source, schedule, scale, tile):
  """(dq, sums over keys, tiles) of the operands along queries and of cells."""
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
    out_type=(
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      _buffer(sums.operands, (B, N, T)),
      _buffer(source.cells, (B, N, T, S)),
    ),
    grid=(schedule.index.shape[2], B * N),
    name="flash_backward_queries",
    T=T,
    S=S,
    F=form(
      q,
      v,
      source,
      scale,
      tile,
      schedule,
      "k",
      pull=sums.pull,
      start=sums.start,
      finish=sums.finish,
      cells=len(source.cells),
      apart=B * N * T * S,
      queries=given[4].shape[2],
    ),
    warps=tile.warps,
    stages=tile.stages,
  )


def keys(given, program, source, schedule, scale, tiles):
  """(dk, dv, sums): by one launch, or, for wide heads, by one for each."""
  if not tiles.apart:
    return _keys_of(given, program, source, schedule, scale, tiles.keys, "kv")
  dk, _, sums = _keys_of(given, program, source, schedule, scale, tiles.keys, "k")
  _, dv, _ = _keys_of(given, program, source, schedule, scale, tiles.keys, "v")
  return dk, dv, sums


def _keys_of(given, program, source, schedule, scale, tile, wanted: str):
  q, k, v, *_ = given
  B, N, T, S = shape_of(q, k)
  sums = source.along_keys if "k" in wanted else Sums((), None, None, None)
  nothing = jax.ShapeDtypeStruct((1,), k.dtype)
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
      _buffer(sums.operands, (B, N, S)),
    ),
    grid=(schedule.index_t.shape[2], B * k.shape[2]),
    name="flash_backward_keys",
    T=T,
    S=S,
    F=form(
      q,
      v,
      source,
      scale,
      tile,
      schedule,
      "q",
      pull=sums.pull,
      start=sums.start,
      finish=sums.finish,
      queries=given[4].shape[2],
      want_k="k" in wanted,
      want_v="v" in wanted,
    ),
    warps=tile.warps,
    stages=tile.stages,
  )


def shape_of(q, k) -> tuple[int, int, int, int]:
  """The sizes (B, N, T, S)."""
  B, T, N, _ = q.shape
  return B, N, T, k.shape[1]


def form(q, v, source, scale, tile: Tile, schedule, walked: str, **more) -> Form:
  """The constants of a kernel that walks queries ("q") or keys ("k")."""
  index = schedule.index_t if walked == "q" else schedule.index
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
    most=index.shape[3],
    row_b=index.shape[1] if index.shape[0] > 1 else 0,
    row_n=1 if index.shape[1] > 1 else 0,
    block_q=tile.block_q,
    block_k=tile.block_k,
    masked=tile.masked,
    steps=block // size,
    masked_steps=block // tile.masked,
    # Three products of the tensor cores' 19-bit floats give float32's digits.
    precision="tf32x3" if q.dtype == jnp.float32 else "ieee",
    ragged=length % block != 0,
    **more,
  )


def _buffer(operands, shape):
  """An output for each of the operands; one number if there is none."""
  shape = (len(operands), *shape) if operands else (1,)
  return jax.ShapeDtypeStruct(shape, jnp.float32)
