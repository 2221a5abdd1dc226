"""Where heads lie in memory, for the index maps of the TPU kernels.

Heads of 64 numbers take the room of 128, and XLA, which lays tokens along the lanes
for them, copies q, k and v. A trial with keys and values as (B, K, H, rows) had no
copies of those two, half their bytes (448 -> 384 MiB of temporaries in a layer of 8
heads and 32,768 tokens), and these bundles of a full part of a step of 1,024 x 2,048:
forward 7816 -> 7838 on v5e and 4798 -> 4640 on v6e, backward 18109 -> 18955 and 10450
-> 10462. It is not here: masked parts and gradients would need the other order too.
"""

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
