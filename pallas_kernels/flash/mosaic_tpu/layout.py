"""Where heads lie in memory, for the index maps of the TPU kernels."""

from collections.abc import Callable

import jax
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu.operands import pad


def ceil_to(n: int, multiple: int) -> int:
  """The least multiple that is not less than n."""
  return -(-n // multiple) * multiple


def pack(x: jax.Array, rows: int) -> jax.Array:
  """(B, T, N, H) as the kernels read it: (B, N, rows, H), padded to `rows`.

  XLA gives the array this order where it is made, if what makes it is free to choose;
  rows of N H numbers would be laid out anew.
  """
  return pad(x.swapaxes(1, 2), 2, rows)


def unpack(x: jax.Array, T: int) -> jax.Array:
  """The inverse of `pack`: (B, T, N, H)."""
  return x[:, :, :T].swapaxes(1, 2)


def spec(block: int, H: int, where: Callable) -> pl.BlockSpec:
  """Blocks of rows of one head; `where(*grid)` gives (b, n, i)."""
  return pl.BlockSpec((None, None, block, H), lambda *grid: (*where(*grid), 0))
