"""Masks of neighborhoods on grids."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from attnjax.core.exported import serializable
from attnjax.core.masks.algebra import Mask
from attnjax.core.masks.integers import div, rem

_STATIC = {"static": True}


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Neighborhood(Mask):
  """Windows on a grid of 1 to 3 axes whose tokens lie in row-major order.

  Ali Hassani et al. Generalized Neighborhood Attention. arXiv:2504.16922; the rule on
  each axis is that of `attnjax.core.grids.neighborhood.bounds`.

  Attributes:
    grid: tokens of each axis.
    window: keys of each axis, at most the axis' tokens / dilation.
    stride: queries of each axis that share a window.
    dilation: tokens with equal i mod dilation form an axis.
    causal: whether, on each axis, no key after the query is seen.
  """

  grid: tuple[int, ...] = dataclasses.field(metadata=_STATIC)
  window: tuple[int, ...] = dataclasses.field(metadata=_STATIC)
  stride: tuple[int, ...] = dataclasses.field(default=(), metadata=_STATIC)
  dilation: tuple[int, ...] = dataclasses.field(default=(), metadata=_STATIC)
  causal: tuple[bool, ...] = dataclasses.field(default=(), metadata=_STATIC)

  def __post_init__(self):
    axes = len(self.grid)
    for name, default in (("stride", 1), ("dilation", 1), ("causal", False)):
      if not getattr(self, name):
        object.__setattr__(self, name, (default,) * axes)
    for name in ("window", "stride", "dilation", "causal"):
      if len(getattr(self, name)) != axes:
        raise ValueError(
          f"{name} {getattr(self, name)} has not the axes of {self.grid}"
        )

  def check(self, shape):
    """Raises ValueError if T or S is not the number of the grid's tokens."""
    tokens = math.prod(self.grid)
    if shape[2:] != (tokens, tokens):
      raise ValueError(f"grid {self.grid} has {tokens} tokens; (T, S) = {shape[2:]}")

  def seen(self, q, k, *operands):
    """Returns whether the key is in the query's window on every axis."""
    del operands
    # A position beyond the grid sees nothing and is not seen.
    tokens = math.prod(self.grid)
    result = ((q >= 0) & (q < tokens)) & ((k >= 0) & (k < tokens))
    for axis, length in enumerate(self.grid):
      row = math.prod(self.grid[axis + 1 :])
      i, j = (rem(div(x, row), length) for x in (q, k))
      result = result & self._near(axis, i, j)
    return result

  def _near(self, axis, i, j):
    length, window, d = self.grid[axis], self.window[axis], self.dilation[axis]
    stride, group = self.stride[axis], rem(i, d)
    # Tokens of the query's dilation group, ceil((length - group) / d).
    length = length if d == 1 else div(length - 1 - group, d) + 1
    query, key = div(i, d), div(j, d)
    first = div(query, stride) * stride
    if self.causal[axis]:
      leader = jnp.minimum(first + stride - 1, length - 1)
      low = jnp.maximum(leader - window + 1, 0)
      near = (key >= low) & (key <= query)
    else:
      leader = jnp.minimum(first + stride // 2, length - 1)
      low = jnp.minimum(leader - window // 2, length - window)
      low = jnp.maximum(low, 0)
      near = (key >= low) & (key < low + window)
    return near if d == 1 else near & (rem(j, d) == group)
