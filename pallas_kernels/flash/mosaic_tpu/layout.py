"""The layout of heads in memory, and block specs of the TPU kernels.

Heads of 64 elements take the room of 128, and XLA, which lays tokens along the lanes
for them, copies q, k and v. A trial with keys and values as (B, K, H, rows) copied
neither and halved their bytes (448 -> 384 MiB of temporaries in a layer of 8 heads and
32,768 tokens). Its bundles for a full part of a step of 1,024 x 2,048: forward
7816 -> 7838 on v5e and 4798 -> 4640 on v6e, backward 18109 -> 18955 and 10450 -> 10462.
It is not used: masked parts and gradients would need the other order too.
"""

from collections.abc import Callable

import jax
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu.operands import pad


def ceil_to(n: int, multiple: int) -> int:
  """Rounds n up to a multiple."""
  return -(-n // multiple) * multiple


def pack(x: jax.Array, rows: int) -> jax.Array:
  """Transposes (B, T, N, H) to the kernels' (B, N, rows, H), padded to `rows`.

  XLA lets the operation that makes the array choose this order, if it can; rows of N H
  elements would be copied.
  """
  return pad(x.swapaxes(1, 2), 2, rows)


def unpack(x: jax.Array, T: int) -> jax.Array:
  """Inverts `pack`: returns (B, T, N, H)."""
  return x[:, :, :T].swapaxes(1, 2)


def spec(block: int, H: int, where: Callable) -> pl.BlockSpec:
  """Returns the spec of row blocks of one head; `where(*grid)` gives (b, n, i)."""
  return pl.BlockSpec((None, None, block, H), lambda *grid: (*where(*grid), 0))
