"""Masks of positions.

q and k are absolute positions, 0, 1, 2, ..., unless the caller gives others. Numbers
are ints, or arrays () or (B,).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.exported import serializable
from attnjax.core.masks.algebra import Mask
from attnjax.core.masks.integers import (
  LEAST,
  MOST,
  at_most,
  clipped,
  div,
  floored,
  integers,
  modulo,
  plus,
  positive,
)

_STATIC = {"static": True}


def _numbers(mask, *names, least: int = LEAST) -> list[Any]:
  """Returns the mask's attributes: None, ints, or int32 arrays (B|1, 1, 1, 1)."""
  found = []
  for name in names:
    value = getattr(mask, name)
    if value is not None:
      value = clipped(integers(f"{type(mask).__name__}.{name}", value), least)
      value = value if isinstance(value, int) else value.reshape(-1, 1, 1, 1)
    found.append(value)
  return found


def _arrays(numbers):
  """Returns the arrays among the numbers: the operands of a mask's test."""
  return tuple(n for n in numbers if n is not None and not isinstance(n, int))


def _values(mask, operands, *names, least: int = LEAST) -> list[Any]:
  """Returns the numbers with operands as arrays: the mask's may be of another trace."""
  left, found = iter(operands), []
  for name in names:
    value = getattr(mask, name)
    if value is not None:
      value = integers(name, value)
      value = clipped(value, least) if isinstance(value, int) else next(left)
    found.append(value)
  return found


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Full(Mask):
  """A mask by which everything is seen."""

  def seen(self, q, k, *operands):
    """Returns True everywhere."""
    del operands
    return _everything(q, k)

  def conjuncts(self):
    """Returns (): it adds nothing to a conjunction."""
    return ()


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Causal(Mask):
  """A causal mask, k <= q + offset; an offset of 2^31 - 1 or more is no limit."""

  offset: Any = 0

  def operands(self):
    """Returns the offset, if it is an array."""
    return _arrays(_numbers(self, "offset"))

  def seen(self, q, k, *operands):
    """Returns whether k <= q + offset."""
    (offset,) = _values(self, operands, "offset")
    return _everything(q, k) if _unlimited(offset) else at_most(k, q, offset)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window(Mask):
  """A window of positions, q - left <= k <= q + right, both ends included.

  An end that is None, 2^31 - 1 or more is no limit.
  """

  left: Any = None
  right: Any = None

  def __post_init__(self):
    for name in ("left", "right"):
      value = getattr(self, name)
      if isinstance(value, int | float | np.number) and not value >= 0:
        raise ValueError(f"window {name} = {value}; it must be 0 or more, or None")

  def operands(self):
    """Returns the ends that are arrays."""
    return _arrays(_numbers(self, "left", "right", least=-MOST))

  def seen(self, q, k, *operands):
    """Returns whether the key lies in the query's window."""
    left, right = _values(self, operands, "left", "right", least=-MOST)
    near = [] if _unlimited(left) else [k >= plus(q, -left)]
    near += [] if _unlimited(right) else [k <= plus(q, right)]
    return functools.reduce(jnp.logical_and, near) if near else _everything(q, k)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dilated(Mask):
  """A mask of keys at multiples of a distance, (q - k) mod step == 0."""

  step: int = dataclasses.field(metadata=_STATIC)

  def __post_init__(self):
    positive("step", self.step)

  def seen(self, q, k, *operands):
    """Returns whether q - k, which may be no int32, is a multiple of the step."""
    del operands
    if self.step > MOST:
      return q == k
    return modulo(q, self.step) == modulo(k, self.step)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunked(Mask):
  """A mask of chunks, q div size == k div size, rounded down, also below 0."""

  size: int = dataclasses.field(metadata=_STATIC)

  def __post_init__(self):
    positive("size", self.size)

  def seen(self, q, k, *operands):
    """Returns whether both positions are in one chunk."""
    del operands
    if self.size > MOST:
      return (q < 0) == (k < 0)
    return floored(q, self.size) == floored(k, self.size)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lengths(Mask):
  """A mask of lengths, q < queries and k < keys; None is unbounded."""

  keys: Any = None
  queries: Any = None

  def operands(self):
    """Returns the lengths that are arrays."""
    return _arrays(_numbers(self, "keys", "queries"))

  def seen(self, q, k, *operands):
    """Returns whether both positions are below their length."""
    keys, queries = _values(self, operands, "keys", "queries")
    inside = (q == q) if queries is None else q < queries
    return inside & (k < keys) if keys is not None else inside & (k == k)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockDiffusion(Mask):
  """The mask of block diffusion: noised tokens 0..length-1, then the clean ones again.

  A noised token sees its own noised block and the clean blocks before it; a clean one
  the clean blocks up to its own. Other positions see nothing and are not seen.

  Marianne Arriola et al. Block Diffusion. arXiv:2503.09573, section 3.1.
  """

  block: int = dataclasses.field(metadata=_STATIC)
  length: int = dataclasses.field(metadata=_STATIC)

  def __post_init__(self):
    positive("block", self.block)
    positive("length", self.length)

  def seen(self, q, k, *operands):
    """Compares the halves and the blocks of both positions."""
    del operands
    query_clean, key_clean = q >= self.length, k >= self.length
    query = div(jnp.where(query_clean, q - self.length, q), self.block)
    key = div(jnp.where(key_clean, k - self.length, k), self.block)
    query = jnp.where(self._inside(q), query, -1)
    key = jnp.where(self._inside(k), key, MOST)
    own = jnp.logical_not(query_clean | key_clean) & (query == key)
    past = key_clean & (key < query)
    return own | past | (query_clean & key_clean & (key == query))

  def _inside(self, x):
    return (x >= 0) & (x < min(2 * self.length, MOST))


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Where(Mask):
  """A custom mask, function(q, k) of positions: elementwise, without arrays."""

  function: Any = dataclasses.field(metadata=_STATIC)

  def seen(self, q, k, *operands):
    """Returns the function's value."""
    del operands
    return self.function(q, k)


def prefix_lm(n) -> Mask:
  """Returns a causal mask whose first n (int, () or (B,)) keys all queries see."""
  return Lengths(n) | Causal()


def sinks(n) -> Mask:
  """Returns the mask of the first n keys."""
  return Lengths(n)


def _unlimited(end) -> bool:
  """Returns whether an end lies beyond every position."""
  return end is None or (isinstance(end, int) and end >= MOST)


def _everything(q, k):
  return (q == q) & (k == k)
