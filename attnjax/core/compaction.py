"""Compaction of padded sequences: their real tokens first, and the inverse."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Compaction:
  """Moves the real tokens of each row to its start, keeping their order.

  Pooling and convolutions over neighbours then see padding at the end only.

  Attributes:
    order: int, (B, T), the index of the token at each new place.
    real: bool, (B, T), whether the token at each new place is real.
  """

  order: Any
  real: Any

  @classmethod
  def of(cls, valid: Bool[Array, "B T"]) -> "Compaction":
    """Returns the compaction of rows whose real tokens are True in `padding`."""
    order = jnp.argsort(~valid, axis=1, stable=True)
    return cls(order, jnp.take_along_axis(valid, order, axis=1))

  def pack(self, x: Array) -> Array:
    """Moves the tokens of x (B, T, ...) to their new places; 0 at the padding."""
    x = jnp.take_along_axis(x, _like(self.order, x), axis=1)
    return jnp.where(_like(self.real, x), x, 0)

  def unpack(self, y: Array) -> Array:
    """Moves the tokens of y (B, T, ...) back to their old places; 0 at the padding."""
    y = jnp.where(_like(self.real, y), y, 0)
    return jnp.take_along_axis(y, _like(jnp.argsort(self.order, axis=1), y), axis=1)


def _like(index, x):
  return index.reshape(*index.shape, *(1,) * (x.ndim - 2))
