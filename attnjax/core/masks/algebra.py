"""Masks that combine: `&`, `|`, `~`, per head.

A mask says which query may see which key, by an element test of their positions and
of its operands, arrays of the shape (B|1, N|1, T|1, S|1). All else follows from the
test: the dense mask, the test inside a kernel, and which blocks are empty or full.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from attnjax.core.exported import serializable
from attnjax.core.masks.integers import integers, known


class Mask:
  """The interface of all masks: pytrees whose leaves are numbers and arrays.

  NumPy arrays and Python numbers are static: block lists are then made when a program
  is traced, as short as they can be. JAX arrays are data: other values need no new
  trace.
  """

  def operands(self) -> tuple[Any, ...]:
    """Returns the arrays that the test reads, of the shape (B|1, N|1, T|1, S|1)."""
    return ()

  def seen(self, q, k, *operands):
    """Returns whether the query at position q sees the key at position k.

    Positions and operands are integers or arrays that broadcast against each other.
    """
    raise NotImplementedError

  def conjuncts(self) -> tuple["Mask", ...]:
    """Returns the masks whose conjunction this mask is."""
    return (self,)

  def check(self, shape: tuple[Any, Any, Any, Any]) -> None:
    """Raises ValueError if an array of the mask does not fit (B, N, T, S)."""
    for array in self.operands():
      if not all(a in (1, w) for a, w in zip(array.shape, shape)):
        raise ValueError(
          f"mask {type(self).__name__} has an array {array.shape}, which does not"
          f" broadcast to (B, N, T, S) {shape}"
        )

  def dense(
    self,
    T: Any,
    S: Any,
    query_positions: Int[Array | np.ndarray, "#B T"] | None = None,
    key_positions: Int[Array | np.ndarray, "#B S"] | None = None,
  ) -> Bool[Array, "#B #N T S"]:
    """Returns the dense mask, the definition that all else is held to.

    Raises:
      ValueError: if positions that are known are no int32.
    """
    q, k = (
      jnp.arange(length, dtype=jnp.int32)[None]
      if given is None
      else known(name, integers(name, given))
      for name, given, length in (
        ("query_positions", query_positions, T),
        ("key_positions", key_positions, S),
      )
    )
    q, k = q[:, None, :, None], k[:, None, None, :]
    if not self.conjuncts():
      return jnp.ones((1, 1, T, S), bool)
    seen = jnp.asarray(self.seen(q, k, *self.operands()), bool)
    return jnp.broadcast_to(seen, jnp.broadcast_shapes(seen.shape, (1, 1, T, S)))

  def __and__(self, other: "Mask") -> "Mask":
    return And((*self.conjuncts(), *_mask(other).conjuncts()))

  def __or__(self, other: "Mask") -> "Mask":
    return Or((self, _mask(other)))

  def __invert__(self) -> "Mask":
    return Not(self)

  def __str__(self) -> str:
    from attnjax.core.masks.plot import text

    return text(self)


def _mask(other):
  if not isinstance(other, Mask):
    raise TypeError(f"{other!r} is no Mask; arrays become one by masks.Dense(array)")
  return other


def _split(parts: Sequence[Mask], operands):
  """Yields each part with its own operands."""
  first = 0
  for part in parts:
    count = _count(part)
    yield part, operands[first : first + count]
    first += count


def _count(part: Mask) -> int:
  """Returns the number of a mask's operands without computing any.

  They may belong to another trace.
  """
  leaves, tree = jax.tree.flatten(part)
  shapes = {
    i: jax.ShapeDtypeStruct(x.shape, x.dtype)
    for i, x in enumerate(leaves)
    if isinstance(x, jax.Array)
  }

  def operands(given):
    return tree.unflatten([given.get(i, x) for i, x in enumerate(leaves)]).operands()

  return len(jax.eval_shape(operands, shapes))


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class And(Mask):
  """The conjunction of masks: seen where every part is."""

  parts: Any

  def operands(self):
    """Returns the operands of all parts, concatenated."""
    return sum((part.operands() for part in self.parts), ())

  def seen(self, q, k, *operands):
    """Returns the conjunction of the parts' tests."""
    result = True
    for part, own in _split(self.parts, operands):
      test = part.seen(q, k, *own)
      result = test if result is True else result & test
    return result

  def conjuncts(self):
    """Returns the parts."""
    return tuple(self.parts)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Or(Mask):
  """The disjunction of masks: seen where some part is."""

  parts: Any

  def operands(self):
    """Returns the operands of all parts, concatenated."""
    return sum((part.operands() for part in self.parts), ())

  def seen(self, q, k, *operands):
    """Returns the disjunction of the parts' tests."""
    result = False
    for part, own in _split(self.parts, operands):
      test = part.seen(q, k, *own)
      result = test if result is False else result | test
    return result


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Not(Mask):
  """The negation of a mask: seen where the part is not."""

  part: Any

  def operands(self):
    """Returns the operands of the part."""
    return self.part.operands()

  def seen(self, q, k, *operands):
    """Returns the negation of the part's test."""
    return jnp.logical_not(self.part.seen(q, k, *operands))


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerHead(Mask):
  """A mask for each query head n, parts[heads[n]]; made by `per_head`."""

  parts: Any
  heads: tuple[int, ...] = dataclasses.field(metadata={"static": True})

  def operands(self):
    """Returns the index of each head's part, then the operands of all parts."""
    which = np.asarray(self.heads, np.int32)[None, :, None, None]
    return sum((part.operands() for part in self.parts), (which,))

  def seen(self, q, k, *operands):
    """Returns the test of each head's part."""
    which, operands = operands[0], operands[1:]
    result = False
    for number, (part, own) in enumerate(_split(self.parts, operands)):
      test = part.seen(q, k, *own)
      result = test if number == 0 else jnp.where(which == number, test, result)
    return result


def per_head(parts: Sequence[Mask]) -> Mask:
  """Returns a mask that has a part for each query head; equal objects are kept once."""
  unique = list({id(part): part for part in parts}.values())
  heads = tuple(next(i for i, u in enumerate(unique) if u is part) for part in parts)
  return PerHead(tuple(unique), heads)
