"""Streams of one example: its text, its video, its sound, each a row of tokens.

Layers of the form "cross" take several by name. They are the inputs of a mixer, unlike
the hidden states beside the tokens that `attnjax.nn.streams` hands through a stack.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stream:
  """Holds the tokens of one modality.

  Attributes:
    x: (B, T, D).
    valid: (B, T) boolean, True at the real tokens; all are real if None. What stands
      at padding, also NaN, reaches nothing.
    positions: (B, T) or (T,); 0, 1, 2, ... if None.
  """

  x: Any
  valid: Any = None
  positions: Any = None

  @property
  def real(self) -> Bool[Array, "B T"]:
    """Returns which tokens are real."""
    return jnp.ones(self.x.shape[:2], bool) if self.valid is None else self.valid

  @property
  def places(self) -> Int[Array, "..."]:
    """Returns the positions of the tokens."""
    own = self.positions
    return jnp.arange(self.x.shape[1]) if own is None else own

  def cleared(self) -> Float[Array, "B T D"]:
    """Returns the tokens with zeros at padding."""
    return cleared(self.x, self.valid)


def cleared(
  x: Float[Array, "*R D"], valid: Bool[Array, "*R"] | None
) -> Float[Array, "*R D"]:
  """Returns x with zeros, and gradients of 0, where it is padding."""
  return x if valid is None else jnp.where(valid[..., None], x, 0)
