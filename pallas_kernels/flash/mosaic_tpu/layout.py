"""Where heads and block lists lie in memory, for the index maps of the TPU kernels."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
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


@dataclasses.dataclass(frozen=True)
class Lists:
  """How to read block lists that were made flat for scalar memory.

  Attributes:
    batches, heads: R of their batch and head axes, 1 or B and 1 or N.
    lines: lists a batch and head.
    length: of each list.
    down: tiles that a block holds along the axis that has the lists.
    along: tiles that a block holds along the axis that is listed.
  """

  batches: int
  heads: int
  lines: int
  length: int
  down: int = 1
  along: int = 1

  @property
  def rows(self) -> int:
    """Tiles along the axis that has the lists."""
    return self.lines * self.down

  @property
  def steps(self) -> int:
    """Tiles that a row visits, at most."""
    return self.length * self.along

  def line(self, b, n, i):
    """The number of the list of the i-th row of (b, n)."""
    batch = b if self.batches > 1 else 0
    head = n if self.heads > 1 else 0
    line = i if self.down == 1 else jax.lax.div(i, self.down)
    return (batch * self.heads + head) * self.lines + line

  def block(self, m):
    """The number, in its list, of the block that the m-th tile of a row lies in."""
    return m if self.along == 1 else jax.lax.div(m, self.along)

  def entry(self, lists, b, n, i, m):
    """The m-th tile of the i-th row of (b, n), of flat (index, full, count).

    Past the last tile it is the last one, so that nothing is fetched.
    """
    index, _, count = lists
    line = self.line(b, n, i)
    if self.along > 1:
      m = jnp.clip(m, 0, jnp.maximum(count[line] * self.along, 1) - 1)
    block = index[line * self.length + self.block(m)]
    if self.along == 1:
      return block
    return block * self.along + jax.lax.rem(m, self.along)


def flat(*lists: jax.Array) -> tuple[jax.Array, ...]:
  """Lists as scalar memory takes them without padding."""
  return tuple(x.astype(jnp.int32).reshape(-1) for x in lists)
