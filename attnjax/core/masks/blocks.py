"""Block lists that depend on data: selection, routing, block-sparse attention."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.exported import serializable
from attnjax.core.masks.algebra import Mask


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks(Mask):
  """A mask by which each block of queries sees the key blocks of its list.

  As a conjunct it costs no element test where tiles divide the blocks: the lists go
  into the schedule. Its indices take no gradient.

  Attributes:
    index: int, (B|1, N|1, query blocks, M): key blocks, in any order.
    count: int, (B|1, N|1, query blocks): how many of them count.
    block_q: queries of a block.
    block_k: keys of a block.
    T: number of queries.
    S: number of keys.
  """

  index: Any
  count: Any
  block_q: int = dataclasses.field(metadata={"static": True})
  block_k: int = dataclasses.field(metadata={"static": True})
  T: int = dataclasses.field(metadata={"static": True})
  S: int = dataclasses.field(metadata={"static": True})

  def map(self):
    """Returns which blocks are listed, bool, (B|1, N|1, query blocks, key blocks)."""
    place = np.arange(self.index.shape[-1])[None, None, None]
    block = np.arange(-(-self.S // self.block_k))[None, None, None, None]
    valid, hit = place < self.count[..., None], self.index[..., None] == block
    return (hit & valid[..., None]).any(axis=-2)

  def operands(self):
    """Returns the map of blocks, repeated to the elements of each block."""
    whole = jnp.repeat(jnp.repeat(self.map(), self.block_q, 2), self.block_k, 3)
    return (whole[:, :, : self.T, : self.S],)

  def seen(self, q, k, *operands):
    """Returns whether the key's block is in the list of the query's block."""
    del q, k
    return operands[0]

  def check(self, shape):
    """Raises ValueError if the lists are not for (B, N, T, S)."""
    B, N, T, S = shape
    blocks = -(-T // self.block_q)
    fits = (self.T, self.S) == (T, S) and self.count.shape == self.index.shape[:3]
    lead = self.index.shape[0] in (1, B) and self.index.shape[1] in (1, N)
    if not (fits and lead and self.index.shape[2] == blocks):
      raise ValueError(
        f"lists of blocks {self.index.shape} for (T, S) = {(self.T, self.S)} do not"
        f" fit (B, N, T, S) = {shape} with {blocks} blocks of {self.block_q} queries"
      )

  def divides(self, block_q: int, block_k: int) -> bool:
    """Returns whether every tile of this size lies in one block."""
    return self.block_q % block_q == 0 and self.block_k % block_k == 0

  def kinds(self, block_q: int, block_k: int, shape: tuple[int, int]):
    """Returns which tiles are listed, bool, (B|1, N|1, *shape)."""
    row, column = self.block_q // block_q, self.block_k // block_k
    whole = jnp.repeat(jnp.repeat(self.map(), row, axis=2), column, axis=3)
    return whole[:, :, : shape[0], : shape[1]]

  def most(self, block_q: int, block_k: int) -> int:
    """Returns the most tiles of keys that a tile of queries may visit."""
    del block_q
    return self.index.shape[-1] * (self.block_k // block_k)


def select(scores, count: int, *, block_q: int, block_k: int, T: int, S: int, **given):
  """Returns the key blocks of the greatest scores, as Blocks.

  Args:
    scores: float, (B|1, N|1, query blocks, key blocks); -inf excludes a block.
    count: how many blocks each query block takes, at most.
    block_q: queries of a block.
    block_k: keys of a block.
    T: number of queries.
    S: number of keys.
    **given: `forced`, bool, of the scores' shape: blocks that are always taken.
  """
  forced = given.pop("forced", None)
  if given:
    raise TypeError(f"select takes no {', '.join(given)}")
  scores = jax.lax.stop_gradient(scores)
  if forced is not None:
    scores = jnp.where(forced, jnp.inf, scores)
  count = min(count, scores.shape[-1])
  best, index = jax.lax.top_k(scores, count)
  real = (best > -jnp.inf).sum(axis=-1)
  return Blocks(index.astype(np.int32), real.astype(np.int32), block_q, block_k, T, S)
