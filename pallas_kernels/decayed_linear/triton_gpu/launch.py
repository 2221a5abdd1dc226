"""The calls of the kernels: constants from shapes, and what lies along the tokens."""

import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.decayed_linear.triton_gpu.form import Form
from pallas_kernels.decayed_linear.triton_gpu.tiles import Tile, Tiles

LOG2E = 1.4426950408889634


def call(kernel, arguments, out_type, grid, tile: Tile, name: str, **constants):
  """Runs a kernel; its outputs follow the arguments."""
  return calling.triton(
    *arguments,
    kernel=kernel,
    out_type=out_type,
    grid=grid,
    name=f"decayed_linear_{name}",
    warps=tile.warps,
    stages=tile.stages,
    **constants,
  )


def form(q, k, v, log_decay, scale, tiles: Tiles, kernel: str, **more) -> Form:
  """The constants of one of KERNELS."""
  tile = getattr(tiles, kernel)
  decay_b = decay_n = 0
  if log_decay is not None:
    batches, _, heads = log_decay.shape
    decay_b, decay_n = heads if batches > 1 else 0, 1 if heads > 1 else 0
  return Form(
    N=q.shape[2],
    K=k.shape[2],
    H=q.shape[3],
    E=v.shape[3],
    chunk=tiles.chunk,
    chunks=-(-q.shape[1] // tiles.chunk),
    tile_h=tile.h,
    tile_e=tile.e,
    scale=scale,
    # Three products of the tensor cores' 19-bit floats give float32's digits.
    precision="tf32x3" if q.dtype == jnp.float32 else "ieee",
    decay_b=decay_b,
    decay_n=decay_n,
    **more,
  )


def lines(log_decay, documents, tiles: Tiles):
  """Sums (B|1, N|1, tokens) of log2 decays from each chunk's start; (B, tokens)."""
  sums = None
  if log_decay is not None:
    x = log_decay.astype(jnp.float32).swapaxes(1, 2) * LOG2E
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % tiles.chunk)))
    sums = x.reshape(*x.shape[:2], -1, tiles.chunk).cumsum(axis=-1).reshape(x.shape)
  if documents is not None:
    beyond = -documents.shape[1] % tiles.chunk
    documents = jnp.pad(documents, ((0, 0), (0, beyond)), mode="edge")
  return sums, documents


def summed(slopes, of: Form, T: int):
  """(parts, B, N, tokens) summed over parts and to the end of each chunk."""
  x = slopes.sum(axis=0)
  x = x.reshape(*x.shape[:2], of.chunks, of.chunk)
  x = jnp.flip(jnp.cumsum(jnp.flip(x, -1), -1), -1)
  return x.reshape(*x.shape[:2], -1)[:, :, :T].swapaxes(1, 2)
