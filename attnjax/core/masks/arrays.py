"""Masks that are given by arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.exported import serializable
from attnjax.core.masks.algebra import Mask
from attnjax.core.masks.integers import LEAST, MOST, asarray, clipped, integers, shown


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments(Mask):
  """A mask by which tokens of equal ids see each other; negative ids see nothing.

  Ids may be any integers, also of 64 bits.

  Attributes:
    queries: int, (T,) or (B|1, T).
    keys: int, (S,) or (B|1, S).
  """

  queries: Any
  keys: Any

  def operands(self):
    """Returns the ids of queries and of keys, as int32 halves if they are wide."""
    ids = self._ids()
    query, key = (_halves(x, any(map(_wide, ids))) for x in ids)
    return *(x[:, None, :, None] for x in query), *(x[:, None, None, :] for x in key)

  def seen(self, q, k, *operands):
    """Returns whether the query and the key are in one segment."""
    del q, k
    half = len(operands) // 2
    query, key = operands[:half], operands[half:]
    result = query[0] == key[0]
    for a, b in zip(query[1:], key[1:]):
      result = result & (a == b)
    unsigned = np.issubdtype(self._ids()[0].dtype, np.unsignedinteger)
    return result if unsigned else result & (query[-1] >= 0)

  def _ids(self):
    """Returns the ids of both sides, either all signed or all unsigned."""
    ids = [_rows(name, integers(name, getattr(self, name))) for name in _SIDES]
    kinds = [np.issubdtype(x.dtype, np.unsignedinteger) for x in ids]
    if kinds[0] != kinds[1]:
      types = [str(x.dtype) for x in ids]
      raise ValueError(f"segment ids are {' and '.join(types)}; one has no sign")
    return ids


_SIDES = ("queries", "keys")


def _rows(name, array):
  """Returns an array (T,) or (B|1, T) as (B|1, T)."""
  if getattr(array, "ndim", 0) not in (1, 2):
    raise ValueError(f"{name} {shown(array)}; it must have the axes (T,) or (B, T)")
  return array[None] if array.ndim == 1 else array


def _wide(ids) -> bool:
  """Returns whether ids need more than 32 bits, by their values if these are known."""
  if isinstance(ids, np.ndarray) and ids.size:
    return not LEAST <= int(ids.min()) <= int(ids.max()) <= MOST
  return ids.dtype.itemsize > 4


def _halves(ids, wide: bool):
  """Splits ids into int32 arrays, equal where the ids are; the last has the sign."""
  if not wide:
    return (ids.astype(np.int32),)
  if ids.dtype.itemsize <= 4:
    ids = ids.astype(np.int32)
    return ids, (ids < 0).astype(np.int32) * -1
  return ids.astype(np.int32), (ids >> 32).astype(np.int32)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Intervals(Mask):
  """A mask by which each query sees the keys at positions low, ..., high - 1.

  Attributes:
    low: int, (T,) or (B|1, T).
    high: int, (T,) or (B|1, T); a query with high <= low sees nothing.
  """

  low: Any
  high: Any

  def operands(self):
    """Returns the lower and the upper ends."""
    ends = (_rows(n, integers(n, getattr(self, n))) for n in ("low", "high"))
    return tuple(clipped(x)[:, None, :, None] for x in ends)

  def seen(self, q, k, *operands):
    """Returns whether the key lies between the query's ends."""
    del q
    low, high = operands
    return (low <= k) & (k < high)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense(Mask):
  """A boolean array, True = may attend: (T, S), (N, T, S) or (B, N, T, S).

  Every axis may be 1 and then broadcasts: a key mask (B, 1, 1, S) or a query mask
  (B, 1, T, 1) stays as small as it is.
  """

  array: Any

  def operands(self):
    """Returns the array, with four axes."""
    array = _booleans("mask", self.array)
    if not 2 <= array.ndim <= 4:
      raise ValueError(f"mask has the shape {array.shape}; it must have 2-4 axes")
    return (array.reshape((1,) * (4 - array.ndim) + array.shape),)

  def seen(self, q, k, *operands):
    """Returns the array's element."""
    del q, k
    return operands[0]


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Global(Mask):
  """A mask of global tokens: seen where the query or the key is one.

  Attributes:
    queries: bool, (T,) or (B|1, T).
    keys: bool, (S,) or (B|1, S).
  """

  queries: Any
  keys: Any

  def operands(self):
    """Returns the flags of the queries and of the keys."""
    query, key = (_rows(n, _booleans(n, getattr(self, n))) for n in _SIDES)
    return query[:, None, :, None], key[:, None, None, :]

  def seen(self, q, k, *operands):
    """Returns whether the query or the key is global."""
    del q, k
    return operands[0] | operands[1]


def _booleans(name, given):
  array = asarray(given)
  if array.dtype != bool:
    raise ValueError(f"{name} has the type {array.dtype}; it must be boolean")
  return array


def tree(parent) -> Mask:
  """Returns the mask by which each node of a tree sees itself and its ancestors.

  Args:
    parent: int, (T,) or (B, T): the place of each node's parent, -1 at a root.
  """
  parent = integers("parent", parent)
  xp = np if isinstance(parent, np.ndarray) else jnp
  size = parent.shape[-1]
  reach = parent[..., None] == xp.arange(size)
  reach = reach | xp.eye(size, dtype=bool)
  for _ in range(max(1, size - 1).bit_length()):  # each doubles the steps
    wide = reach.astype(np.float32)
    reach = (wide @ wide) > 0
  return Dense(reach[:, None] if parent.ndim == 2 else reach)


def packed_bits(words, S: int) -> Mask:
  """Returns the mask that bits give: key s is bit s mod 32 of word s div 32.

  Args:
    words: uint32, (..., T, ceil(S / 32)).
    S: number of keys.
  """
  words = asarray(words)
  xp = np if isinstance(words, np.ndarray) else jnp
  if words.dtype != np.uint32 or words.shape[-1] != -(-S // 32):
    raise ValueError(
      f"bits {words.dtype} {words.shape}: they must be uint32, (..., T, {-(-S // 32)})"
    )
  bits = words[..., None] >> xp.arange(32, dtype=np.uint32) & np.uint32(1)
  return Dense(bits.reshape(*words.shape[:-1], -1)[..., :S] != 0)
