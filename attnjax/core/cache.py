"""Explicit caches for decoding: pytrees that a step takes and returns.

A cache has room for `length` tokens. Writing past its end cannot raise inside
`jax.jit`; the results are NaN from there on, never silently wrong.
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
    length: int32, (), the number of tokens written so far, in every row.
  """

  k: Any
  v: Any
  segment_ids: Any
  length: Any

  @classmethod
  def empty(
    cls, batch: int, length: int, k: tuple[int, int], v: tuple[int, int], dtype
  ):
    """Returns an empty cache with room for `length` tokens of k (K, H) and v (K, V)."""
    return cls(
      k=jnp.zeros((batch, length, *k), dtype),
      v=jnp.zeros((batch, length, *v), dtype),
      segment_ids=jnp.full((batch, length), -1, jnp.int32),
      length=jnp.zeros((), jnp.int32),
    )

  def append(self, k, v, segment_ids=None) -> "KeyValueCache":
    """Returns the cache with T more tokens; their segment is 0 if no ids are given."""
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


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RecurrentCache:
  """The state of a recurrence; its size does not depend on the number of tokens.

  Attributes:
    state: a pytree of arrays (B, ...).
    segment_ids: int32, (B,), of the last real token; -1 before the first one.
  """

  state: Any
  segment_ids: Any

  @classmethod
  def empty(cls, state: Any) -> "RecurrentCache":
    """Returns the cache of no tokens, with the given initial state."""
    batch = jax.tree.leaves(state)[0].shape[0]
    return cls(state, jnp.full((batch,), -1, jnp.int32))

  def resumed(self, ids, nothing: Any) -> Any:
    """Returns the state from which the next tokens start.

    Args:
      ids: int32, (B, T), T >= 1, the documents of these tokens, -1 at padding; None
        if there is one document.
      nothing: the initial state, from which another document starts.
    """
    if ids is None:
      ids = jnp.zeros((self.segment_ids.shape[0], 1), jnp.int32)
    first = _first_real(ids)
    goes_on = (first == self.segment_ids) | (first < 0)

    def one(x, y):
      return jnp.where(goes_on.reshape(-1, *(1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(one, self.state, nothing)

  def advanced(self, state: Any, ids) -> "RecurrentCache":
    """Returns the cache after tokens of the documents `ids`, with their last state."""
    if ids is None:
      ids = jnp.zeros((self.segment_ids.shape[0], 1), jnp.int32)
    last = _first_real(ids[:, ::-1])
    return RecurrentCache(state, jnp.where(last < 0, self.segment_ids, last))


def _first_real(ids):
  """Returns (B,), the first id of each row that is not negative; -1 if all are."""
  real = ids >= 0
  place = jnp.argmax(real, axis=1, keepdims=True)
  first = jnp.take_along_axis(ids, place, axis=1)[:, 0]
  return jnp.where(real.any(axis=1), first, -1)


def poison(x: Array, full: Bool[Array, ""]) -> Array:
  """Returns NaN everywhere if the cache is full, else x."""
  return jnp.where(full, jnp.nan, x)
