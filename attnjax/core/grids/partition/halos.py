"""Overlapping windows: blocks of a grid with a halo of surrounding tokens."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from attnjax.core.grids.partition import sizes
from attnjax.core.grids.partition.windows import Partition


@dataclasses.dataclass(frozen=True)
class Halos:
  """Blocks of a grid with halos of surrounding tokens; the windows overlap.

  A window is a block of `size` tokens and `halo` tokens on each of its sides, zeros
  beyond the grid, which is padded at its end to whole blocks.

  Attributes:
    shape: S.
    size: tokens of a block on each axis, or one number for all.
    halo: tokens on each side of a block, on each axis, or one number for all.
  """

  shape: tuple[int, ...]
  size: Any
  halo: Any

  def __post_init__(self):
    axes = len(self.shape)
    object.__setattr__(self, "shape", tuple(self.shape))
    for name, least in (("size", 1), ("halo", 0)):
      entries = sizes.entries(name, getattr(self, name), axes, least)
      object.__setattr__(self, name, entries)

  @property
  def blocks(self) -> Partition:
    """Returns the blocks without their halos."""
    return Partition(self.shape, self.size)

  @property
  def windows(self) -> tuple[int, ...]:
    """Returns the tokens of a window on each axis, size + 2 halo."""
    return tuple(p + 2 * h for p, h in zip(self.size, self.halo))

  @property
  def number(self) -> int:
    """Returns W, one window for each block."""
    return self.blocks.number

  @property
  def tokens(self) -> int:
    """Returns P = prod(size + 2 halo), the tokens of a window."""
    return math.prod(self.windows)

  def split(self, x: Array) -> Array:
    """Cuts x (B, *S, ...) into windows (B, W, P, ...)."""
    sizes.check("x", x, 1, self.shape)
    axes, tail = len(self.shape), x.shape[len(self.shape) + 1 :]
    around = [
      (h, n * p - length + h)
      for length, n, p, h in zip(self.shape, self.blocks.counts, self.size, self.halo)
    ]
    x = jnp.pad(x, [(0, 0), *around] + [(0, 0)] * len(tail))
    for axis, (n, p, w) in enumerate(zip(self.blocks.counts, self.size, self.windows)):
      x = _overlapping(x, 1 + 2 * axis, n, p, w)
    order = [*range(1, 1 + 2 * axes, 2), *range(2, 2 + 2 * axes, 2)]
    x = x.transpose(0, *order, *range(1 + 2 * axes, x.ndim))
    return x.reshape(x.shape[0], self.number, self.tokens, *tail)

  def join(self, y: Array) -> Array:
    """Joins the blocks of windows (B, W, P, ...), without halos, to (B, *S, ...)."""
    sizes.check("y", y, 1, (self.number, self.tokens))
    tail = y.shape[3:]
    y = y.reshape(*y.shape[:2], *self.windows, *tail)
    inner = (slice(h, h + p) for p, h in zip(self.size, self.halo))
    y = y[(slice(None), slice(None), *inner)]
    return self.blocks.join(y.reshape(*y.shape[:2], -1, *tail))

  def places(self) -> Int[np.ndarray, "W P"]:
    """Returns the row-major index of each token in the grid, -1 beyond it."""
    lines = []
    for length, n, p, h, w in zip(
      self.shape, self.blocks.counts, self.size, self.halo, self.windows
    ):
      line = np.arange(n)[:, None] * p + np.arange(w) - h
      lines.append(np.where((line >= 0) & (line < length), line, -1))
    return sizes.combined(lines, self.shape)

  def valid(self) -> Bool[np.ndarray, "W P"]:
    """Returns which tokens lie in the grid."""
    return self.places() >= 0


def _overlapping(x, axis, number, step, width):
  """Cuts (..., length, ...) into windows (..., number, width, ...), `step` apart.

  It concatenates shifted slices: gathers would need scatters in their gradients.
  """
  pieces = -(-width // step)
  around = [(0, 0)] * x.ndim
  around[axis] = (0, pieces * step - width)
  x = jnp.moveaxis(jnp.pad(x, around), axis, 0)
  cuts = [x[i * step : (i + number) * step] for i in range(pieces)]
  cuts = [cut.reshape(number, step, *cut.shape[1:]) for cut in cuts]
  windows = jnp.concatenate(cuts, axis=1)[:, :width]
  return jnp.moveaxis(windows, (0, 1), (axis, axis + 1))
