"""Windows of a grid that do not overlap, with dilation and cyclic shifts."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from attnjax.core.grids.partition import sizes
from attnjax.core.grids.partition.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class Partition:
  """A grid cut into windows that do not overlap.

  An axis is padded at its end, shifted, and read as (count, size, dilation): a window
  has `size` tokens at the distance `dilation`. Windows are numbered row by row, on
  each axis first by the count, then by their dilation class; so are their tokens.

  Attributes:
    shape: S.
    size: tokens of a window on each axis; one number stands for all axes.
    dilation: distance of a window's tokens, as `size`.
    offset: as `size`; the padded grid is shifted cyclically, so that the token at
      `offset` becomes the first one.

  Raises:
    ValueError: if entries do not fit the axes, or are out of range.
  """

  shape: tuple[int, ...]
  size: Any
  dilation: Any = 1
  offset: Any = 0

  def __post_init__(self):
    object.__setattr__(self, "shape", tuple(self.shape))
    for name, least in (("size", 1), ("dilation", 1), ("offset", 0)):
      entries = sizes.entries(name, getattr(self, name), len(self.shape), least)
      object.__setattr__(self, name, entries)

  @property
  def counts(self) -> tuple[int, ...]:
    """Returns the number of windows on each axis."""
    return tuple(n * d for (n, _, d) in self._parts())

  @property
  def number(self) -> int:
    """Returns W, the number of windows."""
    return math.prod(self.counts)

  @property
  def tokens(self) -> int:
    """Returns P, the tokens of a window."""
    return math.prod(p for (_, p, _) in self._parts())

  def split(self, x: Array) -> Array:
    """Cuts x (B, *S, ...) into windows (B, W, P, ...), 0 where the grid is padded."""
    axes, tail = len(self.shape), x.shape[len(self.shape) + 1 :]
    sizes.check("x", x, 1, self.shape)
    around = [(0, whole - n) for whole, n in zip(self._whole(), self.shape)]
    x = jnp.pad(x, [(0, 0), *around] + [(0, 0)] * len(tail))
    x = self._roll(x, -1).reshape(-1, *itertools.chain(*self._parts()), *tail)
    x = x.transpose(_windows_first(axes, len(tail)))
    return x.reshape(-1, self.number, self.tokens, *tail)

  def join(self, y: Array) -> Array:
    """Inverts `split`: joins (B, W, P, ...) to (B, *S, ...), without the padding."""
    axes, tail = len(self.shape), y.shape[3:]
    sizes.check("y", y, 1, (self.number, self.tokens))
    parts = self._parts()
    outer = itertools.chain(*((n, d) for n, _, d in parts))
    y = y.reshape(-1, *outer, *(p for _, p, _ in parts), *tail)
    y = y.transpose(np.argsort(_windows_first(axes, len(tail))))
    y = self._roll(y.reshape(-1, *self._whole(), *tail), 1)
    return y[(slice(None), *(slice(0, n) for n in self.shape))]

  def places(self) -> Int[np.ndarray, "W P"]:
    """Returns the row-major index of each token in the grid, -1 for padding."""
    return sizes.combined(self._lines(), self.shape)

  def valid(self) -> Bool[np.ndarray, "W P"]:
    """Returns which tokens are not padding."""
    return self.places() >= 0

  def ids(self) -> Int[np.ndarray, "W P"]:
    """Returns the segments inside each window; -1 is padding.

    They differ where the shift has joined opposite borders of the grid, or tokens on
    both sides of the padding: such tokens are not near each other.
    """
    wraps = [
      line < start for line, start in zip(self._lines(padding=True), self._starts())
    ]
    region = np.zeros((1, 1), np.int32)
    for wrap in wraps:
      region = sizes.outer(2 * region, wrap, np.add)
    return np.where(self.valid(), region, -1).astype(np.int32)

  def _parts(self) -> list[tuple[int, int, int]]:
    return [
      (-(-n // (p * d)), p, d)
      for n, p, d in zip(self.shape, self.size, self.dilation, strict=True)
    ]

  def _whole(self) -> tuple[int, ...]:
    return tuple(map(math.prod, self._parts()))

  def _starts(self) -> tuple[int, ...]:
    """Returns the token of the padded axis that is the first one after the shift."""
    return tuple(a % n for a, n in zip(self.offset, self._whole()))

  def _roll(self, x, sign):
    if not any(self._starts()):
      return x
    shifts = [sign * start for start in self._starts()]
    return jnp.roll(x, shifts, axis=range(1, 1 + len(shifts)))

  def _lines(self, padding=False):
    """Yields, for each axis, the token at each place of each window, (count, size)."""
    for n, whole, start, (count, size, dilation) in zip(
      self.shape, self._whole(), self._starts(), self._parts()
    ):
      line = (np.arange(whole) + start) % whole
      line = line.reshape(count, size, dilation).swapaxes(1, 2).reshape(-1, size)
      yield line if padding else np.where(line < n, line, -1)


def grid(shape: Sequence[int], points: Sizes) -> Partition:
  """Returns the dilated grid of MaxViT: windows of `points` tokens that span each axis.

  Their distance is ceil(L / points) on an axis of length L.
  """
  points = sizes.entries("points", points, len(shape), 1)
  dilation = tuple(-(-n // p) for n, p in zip(shape, points))
  return Partition(tuple(shape), points, dilation)


def _windows_first(axes: int, tail: int) -> list[int]:
  """Returns the order of axes (count, size, dilation)* as (count, dilation)*, size*."""
  outer = itertools.chain(*((1 + 3 * i, 3 + 3 * i) for i in range(axes)))
  inner = (2 + 3 * i for i in range(axes))
  return [0, *outer, *inner, *range(1 + 3 * axes, 1 + 3 * axes + tail)]
