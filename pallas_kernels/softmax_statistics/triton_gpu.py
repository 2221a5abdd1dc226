"""Statistics of softmax weights on GPUs: Triton kernels called through jax-triton."""

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash import triton_gpu as flash
from pallas_kernels.flash.triton_gpu import launch
from pallas_kernels.flash.triton_gpu.codegen import write
from pallas_kernels.flash.triton_gpu.tiles import Tiles
from pallas_kernels.softmax_statistics.triton_gpu_kernel import (
  columns_kernel,
  rows_kernel,
)


def supports(q, k, program) -> None:
  """Raises NotImplementedError, with the reason, if the kernels cannot do a problem."""
  flash.supports(q, k, k, program)


def fitting(q, k, program) -> Tiles:
  """Returns the tiles of attention, whose loops these are, on the target device."""
  return flash.fitting(q, k, k, program)


def forward(q, k, lse, program, schedule, *, which: str, scale: float, tiles: Tiles):
  """Computes the statistics.

  Args:
    q: (B, T, N, H).
    k: (B, S, K, H).
    lse: (B, T, N) float32.
    program: the scores' program.
    schedule: of `tiles.backward_blocks` for columns, of `forward_blocks` for rows.
    which: "columns" or "rows".
    scale: what q . k is multiplied by.
    tiles: those of attention.

  Returns:
    (columns (B, N, S) float32), or (argmax int32, entropy float32), each (B, T, N).
  """
  B, N, T, S = launch.shape_of(q, k)
  line = jax.ShapeDtypeStruct((B, T, N), jnp.float32)
  if which == "columns":
    lists = schedule.index_t, schedule.full_t, schedule.count_t
    tile, walked, heads = tiles.keys, "q", N
    kernel, length = columns_kernel, schedule.index.shape[2] * schedule.block_q
    out = (jax.ShapeDtypeStruct((B, N, S), jnp.float32),)
  else:
    lists = schedule.index, schedule.full, schedule.count
    tile, walked, heads = tiles.forward, "k", N
    kernel, length = rows_kernel, T
    out = jax.ShapeDtypeStruct(line.shape, jnp.int32), line
  return calling.triton(
    q,
    k,
    _line(lse, length),
    *lists,
    program.operands,
    kernel=kernel,
    out_type=out,
    grid=(lists[0].shape[2] * B * heads,),
    name=f"softmax_{which}",
    T=T,
    S=S,
    rows=launch.rows_of(lists[0]),
    length=length,
    F=launch.form(q, k, write(program), scale, tile, schedule, walked),
    warps=tile.warps,
    stages=tile.stages,
  )


def _line(lse, length: int):
  """Returns lse (B, N, length), +inf where a query has no weight."""
  lse = jnp.where(lse == -jnp.inf, jnp.inf, lse.astype(jnp.float32)).swapaxes(1, 2)
  widths = (0, 0), (0, 0), (0, length - lse.shape[2])
  return jnp.pad(lse, widths, constant_values=jnp.inf)


def backward(*arrays, **constants):
  """Raises NotImplementedError: derivatives are those of the plain form."""
  raise NotImplementedError("the statistics' derivatives are in plain JAX")


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
