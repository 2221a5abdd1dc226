"""Few queries, which alone would leave most of a GPU idle: the keys are split too.

A group's heads become rows of one tile, and the blocks that a row of the schedule
lists are divided among programs. Each gives its own weighted sum; XLA joins them, in a
fixed order. Masks that differ by head are not split: their rows have different lists.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash.triton_gpu import launch
from pallas_kernels.flash.triton_gpu.decode_kernel import decode_kernel
from pallas_kernels.flash.triton_gpu.default_tiles import power
from pallas_kernels.flash.triton_gpu.tiles import FEW, Tile, estimate, limit

# Programs that keep the largest GPU busy, two a processor, and rows of a tile by the
# bytes of a number: float32's products need twice the registers and more.
PROGRAMS, ROWS = 264, {2: 64, 4: 16}


@dataclasses.dataclass(frozen=True)
class Split:
  """How the work is divided.

  Attributes:
    tile: of a program.
    blocks: tiles that hold the rows of a group.
    parts: programs that share the keys of a head.
  """

  tile: Tile
  blocks: int
  parts: int

  @classmethod
  def of(cls, q, k, v, schedule, tile: Tile, chip) -> "Split | None":
    """The split of these queries; None where they are many or heads' masks differ.

    Args:
      q: (B, T, N, H).
      k: (B, S, K, H).
      v: (B, S, K, V).
      schedule: of the forward pass.
      tile: of the forward kernel.
      chip: (compute capability, bytes of operands for each score).
    """
    (B, T, N, H), K = q.shape, k.shape[2]
    _, heads, lines, most = schedule.index.shape
    if T > FEW or heads > 1 or lines > 1:
      return None
    rows, V = N // K * T, v.shape[3]
    tile = dataclasses.replace(
      tile,
      block_q=min(ROWS[q.dtype.itemsize], max(16, power(rows))),
      block_k=schedule.block_k,
      masked=schedule.block_k,
    )
    problem = "decode", H, V, q.dtype, *chip
    while tile.block_q > 16 and estimate(tile, *problem) > limit(chip[0]):
      tile = dataclasses.replace(tile, block_q=tile.block_q // 2)
    blocks = -(-rows // tile.block_q)
    # A part has two blocks at least: its own beginning and end are work too.
    parts = min(-(-PROGRAMS // (B * K * blocks)), -(-most // 2))
    return cls(tile, blocks, parts)


def forward(q, k, v, sinks, program, source, schedule, split: Split, scale: float):
  """(out, top, total), as `triton_gpu.forward`."""
  (B, T, N, _), (_, S, K, V) = q.shape, v.shape
  lines = B, K, split.parts, N // K, T
  parts = calling.triton(
    q,
    k,
    v,
    schedule.index,
    schedule.full,
    schedule.count,
    program.operands,
    kernel=decode_kernel,
    out_type=(
      jax.ShapeDtypeStruct((*lines, V), jnp.float32),
      jax.ShapeDtypeStruct(lines, jnp.float32),
      jax.ShapeDtypeStruct(lines, jnp.float32),
    ),
    grid=(B * K * split.blocks * split.parts,),
    name="flash_decode",
    warps=split.tile.warps,
    stages=split.tile.stages,
    T=T,
    S=S,
    lists=launch.rows_of(schedule.index),
    PARTS=split.parts,
    F=launch.form(q, v, source, scale, split.tile, schedule, "k"),
  )
  sinks = None if sinks is None else sinks.reshape(K, N // K, 1)
  out, top, total = joined(*parts, sinks)
  out = out.transpose(0, 3, 1, 2, 4).reshape(B, T, N, V)
  top, total = (x.transpose(0, 3, 1, 2).reshape(B, T, N) for x in (top, total))
  return out.astype(v.dtype), top, total


def joined(out, top, total, sinks):
  """(out, top, total) of all parts, which are the third axis, and of the sinks."""
  whole = top.max(axis=2)
  whole = whole if sinks is None else jnp.maximum(whole, sinks)
  pivot = jnp.where(jnp.isneginf(whole), 0.0, whole)
  share = total * jnp.exp(top - pivot[:, :, None])
  total = share.sum(axis=2)
  if sinks is not None:
    total += jnp.exp(sinks - pivot)
  share /= jnp.where(total == 0, 1.0, total)[:, :, None]
  return (out * share[..., None]).sum(axis=2), whole, total
