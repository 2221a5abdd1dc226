"""Few queries, which alone would leave most of a GPU idle: split keys as well.

A group's heads become rows of one tile, and the blocks that a row of the schedule
lists are divided among programs. Each program writes a weighted sum; XLA combines them
in a fixed order. Masks that differ by head are not split: their rows have different
lists.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash.triton_gpu import launch
from pallas_kernels.flash.triton_gpu.decode_kernel import decode_kernel
from pallas_kernels.flash.triton_gpu.default_tiles import power
from pallas_kernels.flash.triton_gpu.tiles import FEW, Tile, estimate, limit

# Programs that keep the largest GPU busy, two a multiprocessor, and rows of a tile by
# bytes of an element: products of float32 need more than twice the registers.
PROGRAMS, ROWS = 264, {2: 64, 4: 16}


@dataclasses.dataclass(frozen=True)
class Split:
  """The division of few queries' work among programs.

  Attributes:
    tile: tile of a program.
    blocks: tiles that hold the rows of a group.
    parts: programs that share the keys of a head.
  """

  tile: Tile
  blocks: int
  parts: int

  @classmethod
  def of(cls, q, k, v, schedule, tile: Tile, chip) -> "Split | None":
    """Returns the split, or None where queries are many or masks differ by head.

    Args:
      q: (B, T, N, H).
      k: (B, S, K, H).
      v: (B, S, K, V).
      schedule: the forward schedule.
      tile: tile of the forward kernel.
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
    # A part has at least two blocks, since starting and ending it is work too.
    parts = min(-(-PROGRAMS // (B * K * blocks)), -(-most // 2))
    return cls(tile, blocks, parts)


def forward(q, k, v, sinks, program, source, schedule, split: Split, scale: float):
  """Computes (out, top, total) as `triton_gpu.forward` does."""
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
  """Combines (out, top, total) over the parts, the third axis, and with the sinks."""
  whole = top.max(axis=2)
  whole = whole if sinks is None else jnp.maximum(whole, sinks)
  pivot = jnp.where(jnp.isneginf(whole), 0.0, whole)
  share = total * jnp.exp(top - pivot[:, :, None])
  total = share.sum(axis=2)
  if sinks is not None:
    total += jnp.exp(sinks - pivot)
  share /= jnp.where(total == 0, 1.0, total)[:, :, None]
  return (out * share[..., None]).sum(axis=2), whole, total
