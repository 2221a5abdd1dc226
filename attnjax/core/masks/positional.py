"""Masks of positions.

q and k are absolute positions, 0, 1, 2, ..., unless the caller gives others. Numbers
are ints, or arrays () or (B,).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.masks.algebra import Mask

_STATIC = {"static": True}


def _numbers(*values):
  """Operands of those values that are arrays, () or (B,)."""
  return tuple(
    v.reshape(-1, 1, 1, 1) for v in values if v is not None and not isinstance(v, int)
  )


def _values(given, operands):
  """The numbers again, arrays from the operands."""
  left = iter(operands)
  return [v if v is None or isinstance(v, int) else next(left) for v in given]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Full(Mask):
  """Everything is seen."""

  def seen(self, q, k, *operands):
    """True."""
    del operands
    return (q == q) & (k == k)

  def conjuncts(self):
    """None: it adds nothing to a conjunction."""
    return ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Causal(Mask):
  """k <= q + offset."""

  offset: Any = 0

  def operands(self):
    """The offset, if it is an array."""
    return _numbers(self.offset)

  def seen(self, q, k, *operands):
    """The key is not after the query."""
    (offset,) = _values([self.offset], operands)
    return k <= q + offset if not _zero(offset) else k <= q


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window(Mask):
  """q - left <= k <= q + right, both ends included; None is unbounded."""

  left: Any = None
  right: Any = None

  def __post_init__(self):
    for name in ("left", "right"):
      value = getattr(self, name)
      if isinstance(value, int) and value < 0:
        raise ValueError(f"window {name} = {value}; it must be 0 or more, or None")

  def operands(self):
    """Those ends that are arrays."""
    return _numbers(self.left, self.right)

  def seen(self, q, k, *operands):
    """The key is near the query."""
    left, right = _values([self.left, self.right], operands)
    result = (q == q) & (k == k) if left is None and right is None else None
    if left is not None:
      result = k >= q - left
    if right is not None:
      near = k <= q + right
      result = near if result is None else result & near
    return result


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dilated(Mask):
  """(q - k) mod step == 0."""

  step: int = dataclasses.field(metadata=_STATIC)

  def __post_init__(self):
    _positive("step", self.step)

  def seen(self, q, k, *operands):
    """The distance is a multiple of the step."""
    del operands
    return jax.lax.rem(*_same(q - k, self.step)) == 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunked(Mask):
  """q div size == k div size."""

  size: int = dataclasses.field(metadata=_STATIC)

  def __post_init__(self):
    _positive("size", self.size)

  def seen(self, q, k, *operands):
    """Both are in one chunk."""
    del operands
    return div(q, self.size) == div(k, self.size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lengths(Mask):
  """q < queries and k < keys; None is unbounded."""

  keys: Any = None
  queries: Any = None

  def operands(self):
    """Those lengths that are arrays."""
    return _numbers(self.keys, self.queries)

  def seen(self, q, k, *operands):
    """Both are inside."""
    keys, queries = _values([self.keys, self.queries], operands)
    inside = (q == q) if queries is None else q < queries
    return inside & (k < keys) if keys is not None else inside & (k == k)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockDiffusion(Mask):
  """Block diffusion: noised tokens 0..length-1, then the clean ones again.

  A noised token sees its own noised block and the clean blocks before it; a clean one
  the clean blocks up to its own.

  Marianne Arriola et al. Block Diffusion. arXiv:2503.09573, section 3.1.
  """

  block: int = dataclasses.field(metadata=_STATIC)
  length: int = dataclasses.field(metadata=_STATIC)

  def __post_init__(self):
    _positive("block", self.block)
    _positive("length", self.length)

  def seen(self, q, k, *operands):
    """By the halves and blocks of both."""
    del operands
    query_clean, key_clean = q >= self.length, k >= self.length
    query = div(jnp.where(query_clean, q - self.length, q), self.block)
    key = div(jnp.where(key_clean, k - self.length, k), self.block)
    own = jnp.logical_not(query_clean | key_clean) & (query == key)
    past = key_clean & (key < query)
    return own | past | (query_clean & key_clean & (key == query))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Where(Mask):
  """A function of your own, seen(q, k) of positions: elementwise, without arrays."""

  function: Any = dataclasses.field(metadata=_STATIC)

  def seen(self, q, k, *operands):
    """The function's value."""
    del operands
    return self.function(q, k)


def prefix_lm(n) -> Mask:
  """Keys before n are seen by all, others by later queries; n an int, () or (B,)."""
  return Lengths(n) | Causal()


def sinks(n) -> Mask:
  """The first n keys."""
  return Lengths(n)


def _positive(name, value):
  if value < 1:
    raise ValueError(f"{name} = {value}; it must be 1 or more")


def _zero(value) -> bool:
  return isinstance(value, int) and value == 0


def _same(x, number):
  return x, jnp.full_like(x, number)


def div(x, number):
  """X div number for x >= 0, without the correction for negative x."""
  return x if number == 1 else jax.lax.div(*_same(x, number))


def rem(x, number):
  """X mod number for x >= 0."""
  return jnp.zeros_like(x) if number == 1 else jax.lax.rem(*_same(x, number))
