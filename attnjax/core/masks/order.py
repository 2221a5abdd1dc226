"""Masks of tokens that lie in another order than their positions."""

import dataclasses
from typing import Any

import jax

from attnjax.core.exported import serializable
from attnjax.core.masks.algebra import Mask
from attnjax.core.masks.integers import asarray, integers, known


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Permuted(Mask):
  """A mask of positions for tokens that lie in another order; made by `permute`.

  Attributes:
    part: a mask; its arrays, if it has any, lie in the new order already.
    query_order: int, (T,), the position of the query at each place.
    key_order: int, (S,), the position of the key at each place.
  """

  part: Any
  query_order: Any
  key_order: Any

  def operands(self):
    """Returns the two orders, then the operands of the part."""
    query, key = (
      known(name, integers(name, getattr(self, name)))
      for name in ("query_order", "key_order")
    )
    own = query[None, None, :, None], key[None, None, None, :]
    return *own, *self.part.operands()

  def seen(self, q, k, *operands):
    """Returns the part's test at the tokens' own positions."""
    del q, k
    return self.part.seen(*operands)


def permute(part: Mask, order, key_order=None) -> Mask:
  """Returns `part` for reordered tokens: place p holds the token order[p].

  Args:
    part: a mask of the tokens' positions.
    order: int, (T,).
    key_order: int, (S,); `order` if None.
  """
  order = asarray(order)
  return Permuted(part, order, order if key_order is None else asarray(key_order))
