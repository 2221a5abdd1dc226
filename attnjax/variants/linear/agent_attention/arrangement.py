"""The arrangement of tokens for the attention, and the averages that are its agents."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.contract import Tokens
from attnjax.core import resample
from attnjax.core.compaction import Compaction
from attnjax.core.dtypes import accumulator_dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrangement:
  """The order of tokens for the attention: real ones first, windows as examples.

  Attributes:
    moved: the Compaction of rows with padding, or None.
    windows: number of windows along each axis of an image; () for one window.
  """

  moved: Any = None
  windows: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})

  @classmethod
  def of(cls, tokens: Tokens, window: int) -> "Arrangement":
    """Returns the arrangement of tokens; windows have side `window`, 0 for none."""
    real = None if tokens.ids is None else tokens.ids >= 0
    sides = tokens.x.shape[1:-1] if window else ()
    moved = None if real is None else Compaction.of(real)
    return cls(moved, tuple(side // window for side in sides))

  @property
  def length(self) -> Int[Array, "B"] | None:
    """Returns the number of real tokens in each row; None if all are real."""
    return None if self.moved is None else self.moved.real.sum(axis=1)

  @property
  def ids(self) -> Int[Array, "B T"] | None:
    """Returns the rearranged tokens' ids, 0 and -1 at padding; None if all are real."""
    return None if self.moved is None else jnp.where(self.moved.real, 0, -1)

  def apart(self, y: Float[Array, "B *S"]) -> Float[Array, "b *s"]:
    """Returns the rearranged tokens; windows row by row, one image after the other."""
    if self.moved is not None:
      y = self.moved.pack(y)
    if not self.windows:
      return y
    (rows, columns), (B, H, W, *rest) = self.windows, y.shape
    y = y.reshape(B, rows, H // rows, columns, W // columns, *rest)
    return y.swapaxes(2, 3).reshape(-1, H // rows, W // columns, *rest)

  def together(self, y: Float[Array, "b *s"]) -> Float[Array, "B *S"]:
    """Returns the tokens in their original places, 0 at padding."""
    if self.moved is not None:
      return self.moved.unpack(y)
    if not self.windows:
      return y
    (rows, columns), (_, h, w, *rest) = self.windows, y.shape
    y = y.reshape(-1, rows, columns, h, w, *rest).swapaxes(2, 3)
    return y.reshape(-1, rows * h, columns * w, *rest)


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
