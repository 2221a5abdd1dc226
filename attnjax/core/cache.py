"""Explicit caches for decoding: values that a step takes and gives back.

A cache has room for `length` tokens. Writing past its end cannot raise inside
`jax.jit`; the results are NaN from there on, never an answer to another question.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
  """Keys and values of all tokens so far, in the order of their arrival.

  Attributes:
    k: (B, L, K, H).
    v: (B, L, K, V).
    segment_ids: int32, (B, L), -1 where nothing is written or the token is padding.
    length: int32, (), tokens written so far, the same for the whole batch.
  """

  k: Any
  v: Any
  segment_ids: Any
  length: Any

  @classmethod
  def empty(
    cls, batch: int, length: int, k: tuple[int, int], v: tuple[int, int], dtype
  ):
    """A cache with room for `length` tokens of k (K, H) and v (K, V)."""
    return cls(
      k=jnp.zeros((batch, length, *k), dtype),
      v=jnp.zeros((batch, length, *v), dtype),
      segment_ids=jnp.full((batch, length), -1, jnp.int32),
      length=jnp.zeros((), jnp.int32),
    )

  def append(self, k, v, segment_ids=None) -> "KeyValueCache":
    """With T more tokens; their segment is 0 if no ids are given."""
    B, T = k.shape[:2]
    if T > self.k.shape[1]:
      raise ValueError(f"{T} tokens do not fit a cache of length {self.k.shape[1]}")
    if segment_ids is None:
      segment_ids = jnp.zeros((B, T), jnp.int32)
    write = jax.lax.dynamic_update_slice_in_dim
    full = self.length + T > self.k.shape[1]
    return KeyValueCache(
      k=write(self.k, k.astype(self.k.dtype), self.length, axis=1),
      v=write(self.v, poison(v.astype(self.v.dtype), full), self.length, axis=1),
      segment_ids=write(self.segment_ids, segment_ids, self.length, axis=1),
      length=self.length + T,
    )


def poison(x: Array, full: Bool[Array, ""]) -> Array:
  """NaN everywhere if the cache is full, else x."""
  return jnp.where(full, jnp.nan, x)
