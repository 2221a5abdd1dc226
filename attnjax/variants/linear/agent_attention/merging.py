"""The merging of a grid's tokens: agents for a model that is already trained.

Daniel Bolya, Judy Hoffman. Token Merging for Fast Stable Diffusion. 2023.
arXiv:2303.17604. In each cell of stride x stride tokens one is a target. Every other
token has a most similar target, by the cosine, and the tokens with the greatest
similarity merge into their targets.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax import attention
from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import projections
from attnjax.variants.linear.agent_attention.attention import (
  IMPLEMENTATIONS,
  training_free,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matching:
  """The assignment of tokens to slots; the tokens of a slot merge into one.

  Attributes:
    slot: int, (B, T): the slot of each token.
    slots: the number of slots.
  """

  slot: Any
  slots: int = dataclasses.field(metadata={"static": True})

  def merge(self, x: Float[Array, "B T D"]) -> Float[Array, "B M D"]:
    """Returns the mean of the tokens of each slot."""
    chosen = jax.nn.one_hot(self.slot, self.slots, dtype=x.dtype)
    count = chosen.sum(axis=1)[..., None]  # >= 1: no slot is empty
    return jnp.einsum("btm,btd->bmd", chosen, x) / count

  def spread(self, y: Float[Array, "B M D"]) -> Float[Array, "B T D"]:
    """Returns for each token the row of its slot."""
    return jnp.take_along_axis(y, self.slot[..., None], axis=1)


def matching(
  x: Float[Array, "B T D"],
  grid: tuple[int, int],
  removed: int,
  *,
  stride: int = 2,
  key: Key[Array, ""] | None = None,
) -> Matching:
  """Returns the matching that removes tokens of a grid by their similarity.

  It has no gradient.

  Args:
    x: the tokens of the grid, row by row.
    grid: the sides of the grid; T is their product.
    removed: number of tokens that merge into others; bounded by the number of tokens
      that are not targets.
    stride: side of a cell; a token outside of whole cells is never a target.
    key: for random targets; without it they are the first tokens of the cells.

  Raises:
    ValueError: if the grid is smaller than a cell or does not fit x.
  """
  B, T, _ = x.shape
  if T != grid[0] * grid[1]:
    raise ValueError(f"grid {grid} has not the {T} tokens of x")
  rows, columns = grid[0] // stride, grid[1] // stride
  if not rows * columns:
    raise ValueError(f"grid {grid} has no cell of stride = {stride}")
  inside = jnp.zeros((rows, columns), int)
  if key is not None:
    inside = jax.random.randint(key, (rows, columns), 0, stride**2)
  row = np.arange(rows)[:, None] * stride + inside // stride
  column = np.arange(columns) * stride + inside % stride
  target = (row * grid[1] + column).reshape(-1)
  others = T - target.size
  removed = min(max(removed, 0), others)
  is_target = jnp.zeros(T, bool).at[target].set(True)
  source = jnp.argsort(is_target, stable=True)[:others]
  x = jax.lax.stop_gradient(x).astype(accumulator_dtype(x))
  x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
  score = jnp.einsum("bsd,btd->bst", x[:, source], x[:, target])
  best, nearest = score.max(-1), score.argmax(-1)
  # The unmerged sources take the first slots, the targets the last.
  rank = jnp.argsort(jnp.argsort(-best, axis=-1, stable=True), axis=-1)
  kept = others - removed
  place = jnp.where(rank < removed, kept + nearest, rank - removed)
  slot = jnp.zeros((B, T), place.dtype).at[:, source].set(place)
  slot = slot.at[:, target].set(kept + jnp.arange(target.size))
  return Matching(slot, kept + target.size)


class DropIn(nnx.Module):
  """A replacement for a trained softmax self-attention; x (B, H, W, D).

  It has the parameters of `attnjax.variants.softmax.dot_product.Layer` of the form
  "image" with rope_theta = 0: `nnx.update(drop_in, nnx.state(layer))`. Some tokens
  merge before the attention and get equal outputs; more merge into the agents.

  Args:
    dim: D.
    heads: N.
    head_dim: H; dim / heads if 0.
    bias: of the projections.
    merged: share of the tokens that merge before the attention.
    agents_merged: share of the tokens that merge to make agents.
    stride: side of the cells with one target.
    sharpness: as in `training_free`.
    shortcut: as in `training_free`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int = 4,
    head_dim: int = 0,
    bias: bool = False,
    merged: float = 0.4,
    agents_merged: float = 0.8,
    stride: int = 2,
    sharpness: float = 0.3,
    shortcut: float = 0.075,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value in (("merged", merged), ("agents_merged", agents_merged)):
      if not 0 <= value < 1:
        raise ValueError(f"{name} = {value}; a share is in [0, 1)")
    check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(dim, heads, heads, size, bias=bias, rngs=rngs)
    self.out = projections.output(heads, size, dim, bias=bias, rngs=rngs)
    self.merged, self.agents_merged, self.stride = merged, agents_merged, stride
    self.sharpness, self.shortcut, self.impl = sharpness, shortcut, impl

  def __call__(
    self, x: Float[Array, "B H W D"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B H W D"]:
    """Returns the layer's output; `key` makes the targets of the merging random."""
    B, H, W, D = x.shape
    tokens = x.reshape(B, H * W, D)
    if min(H, W) < self.stride:
      out, _ = attention.attend(*self.qkv.heads(tokens), impl=self.impl)
      return self.out(out.astype(x.dtype)).reshape(x.shape)

    def match(share):
      removed = int(share * H * W)
      return matching(tokens, (H, W), removed, stride=self.stride, key=key)

    few, fewest = match(self.merged), match(self.agents_merged)
    q, k, v = self.qkv.heads(few.merge(tokens))
    agents = self.qkv.query(fewest.merge(tokens))
    options = {"sharpness": self.sharpness, "shortcut": self.shortcut}
    out = training_free(q, k, v, agents, **options, impl=self.impl)
    return few.spread(self.out(out.astype(x.dtype))).reshape(x.shape)
