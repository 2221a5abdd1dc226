"""The calls of the kernels: constants from shapes, and the arrays along the tokens."""

import jax.numpy as jnp

from pallas_kernels import calling, in_parts
from pallas_kernels.decayed_linear import decays
from pallas_kernels.decayed_linear.triton_gpu.constants import Form
from pallas_kernels.decayed_linear.triton_gpu.tiles import Tile, Tiles


def call(
  kernel, arguments, out_type, programs: int, tile: Tile, name: str, **constants
):
  """Runs a kernel, whose outputs follow its arguments, and returns the outputs."""
  return calling.triton(
    *arguments,
    kernel=kernel,
    out_type=out_type,
    grid=(programs,),
    name=f"decayed_linear_{name}",
    warps=tile.warps,
    stages=tile.stages,
    **constants,
  )


def form(q, k, v, log_decay, scale, tiles: Tiles, kernel: str, **more) -> Form:
  """Returns the constants of one of KERNELS."""
  tile = getattr(tiles, kernel)
  decay_b = decay_n = 0
  chunks = -(-q.shape[1] // tiles.chunk)
  if log_decay is not None:
    batches, _, heads = log_decay.shape
    decay_b, decay_n = heads if batches > 1 else 0, 1 if heads > 1 else 0
  return Form(
    N=q.shape[2],
    K=k.shape[2],
    H=q.shape[3],
    E=v.shape[3],
    chunk=tiles.chunk,
    chunks=chunks,
    span=in_parts.span(tiles.parts, chunks),
    tile_h=tile.h,
    tile_e=tile.e,
    scale=scale,
    # Three products of the tensor cores' 19-bit floats give float32's precision.
    precision="tf32x3" if q.dtype == jnp.float32 else "ieee",
    decay_b=decay_b,
    decay_n=decay_n,
    **more,
  )


def lines(log_decay, documents, tiles: Tiles):
  """Returns (sums of decays, documents), padded to whole chunks, None for None."""
  sums = None if log_decay is None else decays.sums(log_decay, tiles.chunk)
  if documents is not None:
    beyond = -documents.shape[1] % tiles.chunk
    documents = jnp.pad(documents, ((0, 0), (0, beyond)), mode="edge")
  return sums, documents
