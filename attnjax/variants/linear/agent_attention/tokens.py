"""Stages of tokens behind a class token, as in the Vision Transformer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.nn import running
from attnjax.nn.stages import Stage
from attnjax.variants.linear.agent_attention.embedding import Positions

_INIT = nnx.initializers.truncated_normal(0.02)


class TokenStages(nnx.Module):
  """Stages of one resolution, whose blocks take (B, 1 + h w, D), a class token first.

    tokens = concatenate(token + position, map + positions), then all stages

  Args:
    dim: D.
    side: of the maps that the positions are made for; on others they are interpolated.
    stages: of blocks that are told the `grid` (h, w).
    norm: of all tokens after the last stage.
    rngs: for the parameters.
  """

  def __init__(
    self, dim: int, side: int, stages: Sequence[Stage], norm: Any, *, rngs: nnx.Rngs
  ):
    self.token, self.place = (nnx.Param(_INIT(rngs.params(), (dim,))) for _ in range(2))
    self.positions = Positions(dim, side, rngs=rngs)
    self.stages, self.norm = nnx.List(stages), norm

  def __call__(
    self,
    x: Float[Array, "B h w D"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the map (B, h, w, D) of every stage, then the class token (B, 1, 1, D).

    It also returns new statistics if some are given: none, as there is no batch norm.
    """
    carry, grid, found = running.Carry(self, stats, train), x.shape[1:3], []
    x = self._tokens(x)
    for number, stage in enumerate(self.stages):
      own = None if key is None else jax.random.fold_in(key, number)
      x = carry(stage, x, key=own, grid=grid)
      found.append(x)
    return carry.result(self._maps(found, grid))

  def weights(self, x: Float[Array, "B h w D"], *, stats: Any = None) -> list[Array]:
    """Returns the weights (B, N, T, S) of all attentions, T = S = 1 + h w."""
    del stats
    grid, found = x.shape[1:3], []
    x = self._tokens(x)
    for stage in self.stages:
      found += stage.weights(x, grid=grid)
      x = stage(x, grid=grid)
    return found

  def trace(
    self,
    x: Float[Array, "B h w D"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
  ) -> Trace:
    """Returns the traces of all stages, of tokens; the output are the stages' maps.

    Raises:
      NotImplementedError: for an `edit`.
    """
    del stats
    whole, grid, found = Trace(), x.shape[1:3], []
    x = self._tokens(x)
    for stage in self.stages:
      more = {"edit": edit, "first": len(whole.heads), "grid": grid}
      whole = whole + stage.trace(x, **more)
      x = whole.output
      found.append(x)
    return dataclasses.replace(whole, output=self._maps(found, grid))

  def _maps(self, found, grid):
    """Returns the normalised maps and class token."""
    x = found[-1] = self.norm(found[-1])
    maps = [y[:, 1:].reshape(len(y), *grid, -1) for y in found]
    return [*maps, x[:, :1, None]]

  def _tokens(self, x):
    first = (self.token[...] + self.place[...]).astype(x.dtype)
    first = jnp.broadcast_to(first, (len(x), 1, first.size))
    rest = self.positions(x).reshape(len(x), -1, x.shape[-1])
    return jnp.concatenate([first, rest], axis=1)
