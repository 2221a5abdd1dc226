"""Where heads and block lists lie in memory, for the index maps of the TPU kernels."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.flash.mosaic_tpu.operands import LANES, pad


def ceil_to(n: int, multiple: int) -> int:
  """The least multiple that is not less than n."""
  return -(-n // multiple) * multiple


def pack(x: jax.Array, rows: int) -> jax.Array:
  """(B, T, N, H) as the kernels read it, padded to `rows`: no copy where H allows.

  A head whose size is whole lanes is a slice of (B, T, N H); others need (B, N, T, H).
  """
  B, _, N, H = x.shape
  x = pad(x, 1, rows)
  return x.reshape(B, rows, N * H) if H % LANES == 0 else x.swapaxes(1, 2)


def unpack(x: jax.Array, T: int, N: int) -> jax.Array:
  """The inverse of `pack`: (B, T, N, H)."""
  if x.ndim == 3:
    return x[:, :T].reshape(x.shape[0], T, N, -1)
  return x.swapaxes(1, 2)[:, :T]


def shape(B: int, rows: int, N: int, H: int) -> tuple[int, ...]:
  """The shape of a packed array."""
  return (B, rows, N * H) if H % LANES == 0 else (B, N, rows, H)


def spec(block: int, H: int, where: Callable) -> pl.BlockSpec:
  """Blocks of rows of one head; `where(*grid)` gives (b, n, i)."""
  if H % LANES == 0:

    def lanes(*grid):
      b, n, i = where(*grid)
      return b, i, n

    return pl.BlockSpec((None, block, H), lanes)

  def major(*grid):
    return *where(*grid), 0

  return pl.BlockSpec((None, None, block, H), major)


@dataclasses.dataclass(frozen=True)
class Lists:
  """How to read block lists that were made flat for scalar memory.

  Attributes:
    batches, heads: R of their batch and head axes, 1 or B and 1 or N.
    lines: lists a batch and head.
    length: of each list.
  """

  batches: int
  heads: int
  lines: int
  length: int

  @classmethod
  def of(cls, index: jax.Array) -> "Lists":
    """The lists in an array (R_b, R_n, lines, length)."""
    return cls(*index.shape)

  def line(self, b, n, i):
    """The number of the i-th list of (b, n)."""
    batch = b if self.batches > 1 else 0
    head = n if self.heads > 1 else 0
    return (batch * self.heads + head) * self.lines + i

  def entry(self, index, b, n, i, m):
    """The m-th block of the i-th list of (b, n); `index` holds the flat lists."""
    return index[self.line(b, n, i) * self.length + m]


def flat(*lists: jax.Array) -> tuple[jax.Array, ...]:
  """Lists as scalar memory takes them without padding."""
  return tuple(x.astype(jnp.int32).reshape(-1) for x in lists)
