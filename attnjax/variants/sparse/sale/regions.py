"""Blocks of keys: those that are computed anyway, and the candidates."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from attnjax.core import masks
from attnjax.core.masks import Mask


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of blocks and of the local window, in tokens.

  Attributes:
    block_q: queries of a block.
    block_k: keys of a block; the first one is the sink.
    local: last keys that a block of queries sees anyway, its own ones among them.
    segment: the candidates are a multiple of so many keys.
  """

  block_q: int = 64
  block_k: int = 32
  local: int = 128
  segment: int = 128

  def __post_init__(self):
    given = ", ".join(f"{n} = {v}" for n, v in dataclasses.asdict(self).items())
    if min(dataclasses.astuple(self)) < 1:
      raise ValueError(f"{given}: at least 1 each")
    if any(size % self.block_k for size in dataclasses.astuple(self)):
      raise ValueError(f"{given}: multiples of block_k")
    if self.local < self.block_q:
      raise ValueError(f"{given}: local holds the queries' own keys, block_q at least")

  def blocks(self, T: int) -> tuple[int, int]:
    """Returns the number of blocks of queries and of keys of a prompt of T tokens."""
    return -(-T // self.block_q), -(-T // self.block_k)

  def reached(self, T: int, lengths: Int[Array, "B"] | None) -> Int[Array, "B Q"]:
    """Returns how many blocks of keys hold what a block of queries may see, (B|1, Q).

    0 for a block of padding.
    """
    number = jnp.arange(self.blocks(T)[0], dtype=jnp.int32)
    lengths = jnp.full((1,), T, jnp.int32) if lengths is None else lengths
    last = jnp.minimum((number + 1) * self.block_q, lengths[:, None])
    found = -(-last // self.block_k)
    return jnp.where(number * self.block_q < lengths[:, None], found, 0)

  def last(self, T: int, lengths: Int[Array, "B"] | None) -> Int[Array, "B Q"]:
    """Returns the last candidate of each block of queries, (B|1, Q): 1, ..., last.

    What lies after it, at least `local` keys, is computed anyway, and so is block 0.
    """
    rest = self.reached(T, lengths) - 1 - self.local // self.block_k
    run = self.segment // self.block_k
    return jnp.maximum(rest // run, 0) * run

  def candidates(self, T: int, lengths: Int[Array, "B"] | None) -> Bool[Array, "..."]:
    """Returns which blocks of keys are candidates, (B|1, 1, Q, S)."""
    number = jnp.arange(self.blocks(T)[1])
    last = self.last(T, lengths)[:, None, :, None]
    return (number >= 1) & (number <= last)

  def anyway(self, T: int, lengths: Int[Array, "B"] | None) -> Bool[Array, "..."]:
    """Returns which blocks of keys are computed anyway, (B|1, 1, Q, S)."""
    number = jnp.arange(self.blocks(T)[1])
    seen = number < self.reached(T, lengths)[:, None, :, None]
    return seen & ~self.candidates(T, lengths)

  def mask(self, T: int, lengths: Int[Array, "B"] | None) -> Mask:
    """Returns what each query sees anyway: the sink, the local window and itself."""
    place = jnp.arange(T, dtype=jnp.int32)
    first = (1 + self.last(T, lengths)) * self.block_k
    low = jnp.repeat(first, self.block_q, axis=1)[:, :T]
    near: Any = masks.Intervals(low, jnp.full_like(low, T)) | masks.sinks(self.block_k)
    near = masks.Causal() & near
    if lengths is None:
      return near
    high = jnp.where(place < lengths[:, None], lengths[:, None], 0)
    return near & masks.Intervals(jnp.zeros_like(high), high)
