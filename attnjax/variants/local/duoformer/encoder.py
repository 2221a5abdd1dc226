"""The official encoder: blocks across the scales, then blocks between the places."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.core import resample
from attnjax.nn.transformer import Block, keys, layer_norm
from attnjax.variants.local.duoformer.layer import SPREAD, ScaleAttention

PATCH_BLOCKS = ("bare", "prenorm")
EPSILON = 1e-6
_INIT = nnx.initializers.truncated_normal(SPREAD)


class Encoder(nnx.Module):
  """Lists (B, P, n, D) with the scale token in place 0 -> the class token (B, D).

  Args:
    dim: D.
    heads: N, which divides D.
    depth: number of blocks of each kind.
    tokens: n, with the scale token.
    grid: the cells on each axis for which positions are learned; on other grids they
      are interpolated.
    mlp_ratio: hidden width of the MLPs, in D.
    patch_block: "bare" as published: attention after attention without residual,
      norm and MLP; or "prenorm", which trains from scratch.
    head_norm: whether a norm follows; the official code computes one and leaves it.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int = 12,
    depth: int = 12,
    tokens: int = 86,
    grid: Sequence[int] = (7, 7),
    mlp_ratio: float = 4.0,
    patch_block: str = "prenorm",
    head_norm: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("patch_block", patch_block, PATCH_BLOCKS)

    def attention(rngs):
      return ScaleAttention(dim, heads=heads, impl=impl, rngs=rngs)

    def block():
      hidden = int(mlp_ratio * dim)
      return Block(dim, attention, hidden=hidden, epsilon=EPSILON, rngs=rngs)

    def draw(*shape):
      return nnx.Param(_INIT(rngs.params(), shape))

    self.positions = draw(tokens, dim)
    self.scale_blocks = nnx.List(block() for _ in range(depth))
    self.class_token, self.class_position = draw(dim), draw(dim)
    self.patch_positions = draw(*grid, dim)
    bare = patch_block == "bare"
    self.patch_blocks = nnx.List([])
    for _ in range(depth):
      self.patch_blocks.append(attention(rngs) if bare else block())
    self.norm = layer_norm(dim, EPSILON, rngs=rngs) if head_norm else None
    self.bare = bare

  def __call__(
    self,
    x: Float[Array, "B P n D"],
    grid: Sequence[int],
    *,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B D"]:
    """The class token after the last block; `grid` is that of the P cells."""
    first, second = keys(key, 2)
    return self.patches(self.scales(x, key=first)[-1], grid, key=second)

  def scales(
    self, x: Float[Array, "B P n D"], *, key: Key[Array, ""] | None = None
  ) -> list[Array]:
    """The lists after each scale block."""
    x, found = x + self.positions[...].astype(x.dtype), []
    for block, own in zip(self.scale_blocks, keys(key, len(self.scale_blocks))):
      x = block(x, key=own)
      found.append(x)
    return found

  def patches(
    self,
    x: Float[Array, "B P n D"],
    grid: Sequence[int],
    *,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B D"]:
    """The class token after the patch blocks, which see the scale tokens of x."""
    own = self.class_token[...] + self.class_position[...]
    own = jnp.broadcast_to(own.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
    places = _interpolated(self.patch_positions[...], grid).astype(x.dtype)
    # One list of all cells: patch attention is attention within it.
    z = jnp.concatenate([own, x[:, :, 0] + places], axis=1)[:, None]
    blocks: Any = self.patch_blocks
    for block, part in zip(blocks, keys(key, len(blocks))):
      z = block(z) if self.bare else block(z, key=part)
    z = z[:, 0, 0]
    return z if self.norm is None else self.norm(z)


def _interpolated(table: Float[Array, "h w D"], grid: Sequence[int]) -> Array:
  """The positions of a grid's cells, (P, D)."""
  rows, columns = (resample.linear(n, t)[0] for n, t in zip(grid, table.shape))
  return jnp.einsum("ya,xb,abd->yxd", rows, columns, table).reshape(-1, table.shape[-1])
