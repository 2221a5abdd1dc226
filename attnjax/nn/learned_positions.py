"""Learned positions of a grid, interpolated on grids of other sides."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core import resample

_INIT = nnx.initializers.truncated_normal(0.02)


class LearnedPositions(nnx.Module):
  """x + table, of the sides of x: a block of `attnjax.nn.stages` without attention.

  Args:
    dim: D.
    grid: the table's sides.
    rngs: for the table.
  """

  def __init__(self, dim: int, grid: Sequence[int], *, rngs: nnx.Rngs):
    self.table = nnx.Param(_INIT(rngs.params(), (*grid, dim)))

  def __call__(
    self, x: Float[Array, "B h w D"], *, index: int = 0, key: Array | None = None
  ) -> Float[Array, "B h w D"]:
    """Returns the map with the positions of its places added."""
    del index, key  # equal everywhere, and nothing is dropped
    return x + interpolated(self.table[...], x.shape[1:3]).astype(x.dtype)


def interpolated(
  table: Float[Array, "h w D"], grid: Sequence[int]
) -> Float[Array, "y x D"]:
  """Returns a table resampled to another grid, linearly on each axis."""
  if tuple(grid) == table.shape[:2]:
    return table
  rows, columns = (resample.linear(n, t)[0] for n, t in zip(grid, table.shape))
  with jax.default_matmul_precision("highest"):
    return jnp.einsum("ya,xb,abd->yxd", rows, columns, table)
