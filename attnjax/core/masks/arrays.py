"""Masks that are given by arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.masks.algebra import Mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments(Mask):
  """Tokens of the same id see each other; negative ids see nothing.

  Attributes:
    queries: int, (B|1, T).
    keys: int, (B|1, S).
  """

  queries: Any
  keys: Any

  def operands(self):
    """The ids of the queries and of the keys."""
    return self.queries[:, None, :, None], self.keys[:, None, None, :]

  def seen(self, q, k, *operands):
    """Both are in one segment."""
    del q, k
    query, key = operands
    return (query == key) & (query >= 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Intervals(Mask):
  """Each query sees the keys at positions low, ..., high - 1; none if high <= low.

  Attributes:
    low: int, (B|1, T).
    high: int, (B|1, T).
  """

  low: Any
  high: Any

  def operands(self):
    """Both ends."""
    return self.low[:, None, :, None], self.high[:, None, :, None]

  def seen(self, q, k, *operands):
    """The key is between the query's ends."""
    del q
    low, high = operands
    return (low <= k) & (k < high)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense(Mask):
  """True = may attend; boolean, (T, S), (N, T, S) or (B, N, T, S), broadcastable.

  A key mask (B, 1, 1, S) or a query mask (B, 1, T, 1) stays as small as it is.
  """

  array: Any

  def operands(self):
    """The array, with four axes."""
    if self.array.dtype != bool:
      raise ValueError(f"mask has the type {self.array.dtype}; it must be boolean")
    if not 2 <= self.array.ndim <= 4:
      raise ValueError(f"mask has the shape {self.array.shape}; it must have 2-4 axes")
    return (self.array.reshape((1,) * (4 - self.array.ndim) + self.array.shape),)

  def seen(self, q, k, *operands):
    """The array's element."""
    del q, k
    return operands[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Global(Mask):
  """Seen where the query or the key is global.

  Attributes:
    queries: bool, (B|1, T).
    keys: bool, (B|1, S).
  """

  queries: Any
  keys: Any

  def operands(self):
    """The two flags."""
    return self.queries[:, None, :, None], self.keys[:, None, None, :]

  def seen(self, q, k, *operands):
    """Either is global."""
    del q, k
    return operands[0] | operands[1]


def tree(parent) -> Mask:
  """A node sees itself and its ancestors.

  Args:
    parent: int, (T,) or (B, T): the place of each node's parent, -1 at a root.
  """
  xp = np if isinstance(parent, np.ndarray) else jnp
  size = parent.shape[-1]
  reach = parent[..., None] == xp.arange(size)
  reach = reach | xp.eye(size, dtype=bool)
  for _ in range(max(1, size - 1).bit_length()):  # each squares the steps
    wide = reach.astype(np.float32)
    reach = (wide @ wide) > 0
  return Dense(reach[:, None] if parent.ndim == 2 else reach)


def packed_bits(words, S: int) -> Mask:
  """Any mask from bits: key s is bit s mod 32 of word s div 32.

  Args:
    words: uint32, (..., T, ceil(S / 32)).
    S: number of keys.
  """
  xp = np if isinstance(words, np.ndarray) else jnp
  if words.dtype != np.uint32 or words.shape[-1] != -(-S // 32):
    raise ValueError(
      f"bits {words.dtype} {words.shape}: they must be uint32, (..., T, {-(-S // 32)})"
    )
  bits = words[..., None] >> xp.arange(32, dtype=np.uint32) & np.uint32(1)
  return Dense(bits.reshape(*words.shape[:-1], -1)[..., :S] != 0)
