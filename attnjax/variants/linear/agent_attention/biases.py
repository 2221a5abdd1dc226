"""Biases between agents and positions, learned on a small grid and interpolated."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.core import resample

TABLE = 7  # points of a table on each axis, for any grid
_INIT = nnx.initializers.truncated_normal(0.02)


class Biases(nnx.Module):
  """Learned biases (N, A) at each point of a grid.

    bias[n, a, p] = interpolate(table[n, a])[p] + sum_axes side_axis[n, a, p_axis]

  A side has the length that is given here; on grids with other sides it is interpolated
  as well.
  """

  def __init__(self, heads: int, agents: int, sides: Sequence[int], *, rngs: nnx.Rngs):
    def make(*shape):
      return nnx.Param(_INIT(rngs.params(), (heads, agents, *shape)))

    self.table = make(*(TABLE,) * len(sides))
    self.sides = nnx.List(make(side) for side in sides)

  def __call__(
    self, grid: Sequence[int], length: Int[Array, "B"] | None = None
  ) -> Float[Array, "#B N A T"]:
    """Returns the biases at the points of the grid, row by row.

    Args:
      grid: the sides of the grid, as many as the parameters have.
      length: number of points that count in each example; for one side only.
    """
    if len(grid) == 1:
      parts = (
        jnp.einsum("btp,nap->bnat", resample.linear(grid[0], x.shape[-1], length), x)
        for x in (self.table[...], self.sides[0][...])
      )
      return next(parts) + next(parts)
    rows, columns = (resample.linear(side, TABLE)[0] for side in grid)
    bias = jnp.einsum("yp,xr,napr->nayx", rows, columns, self.table[...])
    for axis, (side, parameter) in enumerate(zip(grid, self.sides)):
      part = parameter[...]
      if side != parameter.shape[-1]:
        weight = resample.linear(side, parameter.shape[-1])[0]
        part = jnp.einsum("tp,nap->nat", weight, part)
      bias = bias + jnp.expand_dims(part, 3 - axis)
    return bias.reshape(1, *bias.shape[:2], -1)
