"""The arrangement of tokens for the attention, and the averages that are its agents."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Tokens
from attnjax.core import resample
from attnjax.core.compaction import Compaction
from attnjax.core.dtypes import accumulator_dtype


def _static(default: Any) -> Any:
  return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrangement:
  """The order of tokens for the attention: real ones first, windows as examples.

  Attributes:
    moved: the Compaction of rows with padding, or None.
    grid: the sides of an image, or of the points behind a class token; () in a line.
    windows: number of windows along each axis of an image; () for one window.
    padding: number of rows and of columns that the last windows have beyond the image.
    shift: the row and column at which the first window begins, cyclically.
  """

  moved: Any = None
  grid: tuple[int, ...] = _static(())
  windows: tuple[int, ...] = _static(())
  padding: tuple[int, ...] = _static((0, 0))
  shift: int = _static(0)

  @classmethod
  def of(
    cls, tokens: Tokens, window: int, shift: int = 0, grid: tuple[int, ...] = ()
  ) -> "Arrangement":
    """Returns the arrangement of tokens.

    Args:
      tokens: of a line or an image.
      window: side of windows, 0 for none. One that spans both sides of an image is the
        image; one that spans its shorter side has that side, and there is no shift.
      shift: see above.
      grid: of the points behind a class token.
    """
    real = None if tokens.ids is None else tokens.ids >= 0
    moved = None if real is None else Compaction.of(real)
    grid = grid or tokens.x.shape[1:-1]
    if not window or window >= max(grid):
      return cls(moved, grid)
    shift, side = shift if window < min(grid) else 0, min(window, *grid)
    windows = tuple(-(-length // side) for length in grid)
    padding = tuple(-length % side for length in grid)
    return cls(moved, grid, windows, padding, shift)

  @property
  def length(self) -> Int[Array, "B"] | None:
    """Returns the number of real tokens in each row; None if all are real."""
    return None if self.moved is None else self.moved.real.sum(axis=1)

  @property
  def ids(self) -> Int[Array, "B T"] | None:
    """Returns the rearranged tokens' ids, 0 and -1 at padding; None if all are real."""
    return None if self.moved is None else jnp.where(self.moved.real, 0, -1)

  def real(self, batch: int) -> Bool[Array, "b *s"] | None:
    """Returns which rearranged tokens are no padding; None if all are real.

    Args:
      batch: number of lines or images.
    """
    if self.moved is not None:
      return self.moved.real
    if not any(self.padding):
      return None
    return self.apart(jnp.ones((batch, *self.grid))) > 0

  def apart(self, y: Float[Array, "B *S"]) -> Float[Array, "b *s"]:
    """Returns the rearranged tokens; windows row by row, one image after the other.

    Padding is 0.
    """
    if self.moved is not None:
      y = self.moved.pack(y)
    if not self.windows:
      return y
    if any(self.padding):
      around = [(0, 0), *((0, n) for n in self.padding), *[(0, 0)] * (y.ndim - 3)]
      y = jnp.pad(y, around)
    if self.shift:
      y = jnp.roll(y, (-self.shift, -self.shift), axis=(1, 2))
    (rows, columns), (B, H, W, *rest) = self.windows, y.shape
    y = y.reshape(B, rows, H // rows, columns, W // columns, *rest)
    return y.swapaxes(2, 3).reshape(-1, H // rows, W // columns, *rest)

  def together(self, y: Float[Array, "b *s"]) -> Float[Array, "B *S"]:
    """Returns the tokens in their original places, 0 at padding of lines."""
    if self.moved is not None:
      return self.moved.unpack(y)
    if not self.windows:
      return y
    (rows, columns), (_, h, w, *rest) = self.windows, y.shape
    y = y.reshape(-1, rows, columns, h, w, *rest).swapaxes(2, 3)
    y = y.reshape(-1, rows * h, columns * w, *rest)
    if self.shift:
      y = jnp.roll(y, (self.shift, self.shift), axis=(1, 2))
    below, right = self.padding
    return y[:, : y.shape[1] - below, : y.shape[2] - right]


def agents(
  q: Float[Array, "B *S N H"],
  cut: Arrangement,
  sides: Sequence[int],
  grid: tuple[int, ...],
) -> Float[Array, "b A N H"]:
  """Returns the agents of queries: the `averages` of those that are no padding.

  Args:
    q: queries as they are given.
    cut: their arrangement.
    sides: of the grid of cells.
    grid: the sides of a window; a class token before it is no part of an agent.
  """
  own, real = cut.apart(q), cut.real(len(q))
  points = own.reshape(len(own), -1, *own.shape[-2:])[:, -math.prod(grid) :]
  points = points.reshape(-1, *grid, *own.shape[-2:])
  found = averages(points, sides, cut.length)
  if real is None or cut.moved is not None:
    return found
  share = averages(real[..., None, None].astype(found.dtype), sides)
  return jnp.where(share > 0, found / jnp.where(share > 0, share, 1), 0)


def averages(
  q: Float[Array, "B *S N H"],
  sides: Sequence[int],
  length: Int[Array, "B"] | None = None,
) -> Float[Array, "B A N H"]:
  """Returns the queries' means over a grid of `sides` cells, which may overlap.

  Args:
    q: queries on a line or a grid.
    sides: of the grid of cells; A is their product.
    length: number of tokens that count in each row; on a line only.
  """
  points = q.astype(accumulator_dtype(q))
  if len(sides) == 1:
    mean = resample.bins(sides[0], q.shape[1], length)
    mean = jnp.broadcast_to(mean, (q.shape[0], *mean.shape[1:]))
    out = jnp.einsum("bpt,btnh->bpnh", mean, points)
  else:
    rows, columns = (resample.bins(p, s)[0] for p, s in zip(sides, q.shape[1:3]))
    out = jnp.einsum("py,rx,byxnh->bprnh", rows, columns, points)
  return out.reshape(q.shape[0], -1, *q.shape[-2:]).astype(q.dtype)
