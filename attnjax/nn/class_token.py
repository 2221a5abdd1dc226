"""Maps with a class token before them, which vision transformers classify by.

Stages of such transformers begin with a `Mark`, which makes `Marked` of a map; then
come blocks on rows of tokens, each in a `Rows`, and the pool of the classifier is
`token`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn.learned_positions import LearnedPositions

_INIT = nnx.initializers.truncated_normal(0.02)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marked:
  """A class token and a map, as rows of tokens.

  Attributes:
    rows: (B, 1 + h w, D), the class token first.
    grid: (h, w).
    left: (B, 1 + h w), True at the tokens that are not pruned; None for all.
  """

  rows: Any
  grid: tuple[int, int] = dataclasses.field(metadata={"static": True})
  left: Any = None

  @property
  def map(self) -> Array:
    """Returns the map (B, h, w, D) alone."""
    B, _, D = self.rows.shape
    return self.rows[:, 1:].reshape(B, *self.grid, D)


class Mark(nnx.Module):
  """A class token before a map, and learned positions of both.

  Args:
    dim: D.
    grid: the sides of the map's positions, interpolated on other maps.
    rngs: for the token and the positions.
  """

  def __init__(self, dim: int, grid: tuple[int, int], *, rngs: nnx.Rngs):
    def draw():
      return nnx.Param(_INIT(rngs.params(), (dim,)))

    self.token, self.position = draw(), draw()
    self.positions = LearnedPositions(dim, grid, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B h w D"], *, index: int = 0, key: Array | None = None
  ) -> Marked:
    """Returns the map as rows behind the class token, both with their positions."""
    del index, key
    B, *grid, D = x.shape
    first = (self.token[...] + self.position[...]).astype(x.dtype)
    first = jnp.broadcast_to(first, (B, 1, D))
    rows = self.positions(x).reshape(B, -1, D)
    return Marked(jnp.concatenate([first, rows], axis=1), (grid[0], grid[1]))


class Rows(nnx.Module):
  """A part that takes tokens (B, T, D), applied to the rows of `Marked`."""

  def __init__(self, part: Any):
    self.part = part

  def __call__(self, x: Marked, **options) -> Marked:
    """Returns the part's tokens; options go to the part."""
    return dataclasses.replace(x, rows=self.part(x.rows, **options))

  def weights(self, x: Marked, **options) -> list[Array]:
    """Returns the weights (B, N, T, T) of the part's attentions."""
    return self.part.weights(x.rows, **options)


def token(x: Marked, *, key: Array | None = None) -> Float[Array, "B D"]:
  """Returns the class token: a pool of `attnjax.nn.backbone.Classifier`."""
  del key
  return x.rows[:, 0]


def map_of(x: Any) -> Any:
  """Returns the map of `Marked`, and other maps as they are."""
  return x.map if isinstance(x, Marked) else x


def rows_of(x: Any) -> Any:
  """Returns the rows of `Marked`, and maps as they are."""
  return x.rows if isinstance(x, Marked) else x
