"""Segment memory: the inputs of a layer that are kept from the tokens before.

Zihang Dai et al. Transformer-XL. 2019. arXiv:1901.02860, section 3.2: a layer's
queries come from a segment, its keys and values from the memory and the segment; no
gradient goes into a memory.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegmentMemory:
  """The last M inputs of a layer.

  Attributes:
    x: (B, M, D).
    segment_ids: int32, (B, M), -1 where nothing is kept or the token is padding.
  """

  x: Any
  segment_ids: Any

  @classmethod
  def empty(cls, batch: int, length: int, dim: int, dtype: Any = jnp.float32):
    """Returns the memory before the first segment, with room for `length` inputs."""
    ids = jnp.full((batch, length), -1, jnp.int32)
    return cls(jnp.zeros((batch, length, dim), dtype), ids)

  @property
  def length(self) -> int:
    """Returns M."""
    return self.x.shape[1]

  def before(
    self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None
  ) -> tuple[Float[Array, "B L D"], Int[Array, "B L"]]:
    """Returns the memory and then x, L = M + T inputs, and their segments.

    Args:
      x: inputs of the next segment.
      segment_ids: their documents; 0 if None.
    """
    if segment_ids is None:
      segment_ids = jnp.zeros(x.shape[:2], jnp.int32)
    row = jnp.concatenate([self.x.astype(x.dtype), x], axis=1)
    return row, jnp.concatenate([self.segment_ids, segment_ids], axis=1)

  def after(
    self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None
  ) -> "SegmentMemory":
    """Returns the memory after a segment: the last M inputs, without their gradient."""
    row, ids = self.before(x, segment_ids)
    kept = jax.lax.stop_gradient(row[:, x.shape[1] :]).astype(self.x.dtype)
    return SegmentMemory(kept, ids[:, x.shape[1] :])
