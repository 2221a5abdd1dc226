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
    keys: (B, L, K, H); (R, B, L, K, H) if the cache is `layer` of R stacked ones.
    values: (B, L, K, V), or (R, B, L, K, V).
    segment_ids: int32, (B, L), -1 where nothing is written or the token is padding.
    length: int32, (), the number of tokens written so far, in every row.
    layer: int32, (), or None: see `of_layer`.
    queries: N, the query heads of the layer; 0 if it does not tell.
  """

  keys: Any
  values: Any
  segment_ids: Any
  length: Any
  layer: Any = None
  queries: int = dataclasses.field(default=0, metadata={"static": True})

  @classmethod
  def empty(
    cls,
    batch: int,
    length: int,
    k: tuple[int, int],
    v: tuple[int, int],
    dtype,
    queries: int = 0,
  ):
    """Returns an empty cache with room for `length` tokens of k (K, H) and v (K, V)."""
    return cls(
      keys=jnp.zeros((batch, length, *k), dtype),
      values=jnp.zeros((batch, length, *v), dtype),
      segment_ids=jnp.full((batch, length), -1, jnp.int32),
      length=jnp.zeros((), jnp.int32),
      queries=queries,
    )

  @property
  def k(self) -> Array:
    """Returns the keys, (B, L, K, H)."""
    return self._own(self.keys)

  @property
  def v(self) -> Array:
    """Returns the values, (B, L, K, V)."""
    return self._own(self.values)

  @property
  def room(self) -> int:
    """Returns L, the number of tokens that the cache has room for."""
    return self.segment_ids.shape[1]

  def at(self, *places: Any) -> tuple[Array, Array]:
    """Returns the keys and the values at indices of their first axes, and no others.

    Args:
      *places: of rows, tokens and, if given, key heads; integers, of one shape.
    """
    own = () if self.layer is None else (self.layer,)
    return self.keys[(*own, *places)], self.values[(*own, *places)]

  def append(self, k, v, segment_ids=None) -> "KeyValueCache":
    """Returns the cache with T more tokens; their segment is 0 if no ids are given."""
    B, T = k.shape[:2]
    if T > self.room:
      raise ValueError(f"{T} tokens do not fit a cache of length {self.room}")
    if segment_ids is None:
      segment_ids = jnp.zeros((B, T), jnp.int32)
    write = jax.lax.dynamic_update_slice_in_dim
    full = self.length + T > self.room
    return KeyValueCache(
      keys=self._written(self.keys, k.astype(self.keys.dtype)),
      values=self._written(self.values, poison(v.astype(self.values.dtype), full)),
      segment_ids=write(self.segment_ids, segment_ids, self.length, axis=1),
      length=self.length + T,
      layer=self.layer,
      queries=self.queries,
    )

  def _own(self, x: Array) -> Array:
    if self.layer is None:
      return x
    return jax.lax.dynamic_index_in_dim(x, self.layer, keepdims=False)

  def _written(self, x: Array, new: Array) -> Array:
    own = () if self.layer is None else (self.layer,)
    new = new.reshape((1,) * len(own) + new.shape)
    start = [jnp.asarray(i, jnp.int32) for i in (*own, 0, self.length, 0, 0)]
    return jax.lax.dynamic_update_slice(x, new, start)


def without_keys(caches: Any) -> tuple[Any, Any]:
  """Returns (the keys and values of caches, the caches without them).

  A loop over stacked layers carries the keys and values of all layers whole, so that
  XLA writes a token in its place and copies no other; the rest, which is small, goes
  through the loop layer by layer.

  Args:
    caches: a pytree with stacked KeyValueCaches among its nodes, and others.
  """
  found = []

  def bare(x):
    if not isinstance(x, KeyValueCache):
      return x
    found.append((x.keys, x.values))
    return dataclasses.replace(x, keys=None, values=None, layer=None)

  rest = jax.tree.map(bare, caches, is_leaf=_keeps_keys)
  return tuple(found), rest


def of_layer(held: Any, rest: Any, layer: Any) -> Any:
  """Returns the caches of a layer, which read and write their part of stacked keys.

  Args:
    held: the keys and values that `without_keys` returned.
    rest: that layer's part of what else it returned.
    layer: number of the layer among the stacked ones, int32.
  """
  pairs = iter(held)

  def whole(x):
    if not isinstance(x, KeyValueCache):
      return x
    keys, values = next(pairs)
    return dataclasses.replace(x, keys=keys, values=values, layer=layer)

  return jax.tree.map(whole, rest, is_leaf=_keeps_keys)


def _keeps_keys(x: Any) -> bool:
  return isinstance(x, KeyValueCache)


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
