"""The official encoder: blocks across the scales, then blocks between the places."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.nn.learned_positions import interpolated
from attnjax.nn.stages import checkpointed
from attnjax.nn.transformer import Block, keys, layer_norm
from attnjax.variants.local.duoformer.layer import SPREAD, ScaleAttention

PATCH_BLOCKS = ("bare", "prenorm")
EPSILON = 1e-6
_INIT = nnx.initializers.truncated_normal(SPREAD)


class Encoder(nnx.Module):
  """Lists (B, P, n, D) with the scale token in place 0 -> the class token (B, D).

  `scales(lists)` gives the lists after each scale block, `patches(map)` the class token
  of a map (B, h, w, D) of scale tokens after the patch blocks.

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
    remat: of each block, see `nn.stack.REMAT`.
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
    remat: str = "none",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("patch_block", patch_block, PATCH_BLOCKS)

    def attention(rngs):
      return ScaleAttention(dim, heads=heads, impl=impl, rngs=rngs)

    def block():
      hidden = int(mlp_ratio * dim)
      return Block(dim, attention, hidden=hidden, epsilon=EPSILON, rngs=rngs)

    bare = patch_block == "bare"
    self.scales = _Scales(dim, tokens, block, depth, remat, rngs=rngs)
    made = (lambda: attention(rngs)) if bare else block
    self.patches = _Patches(dim, grid, made, depth, bare, remat, head_norm, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B P n D"],
    grid: Sequence[int],
    *,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B D"]:
    """Returns the class token after the last block; `grid` is that of the P cells."""
    first, second = keys(key, 2)
    x = self.scales(x, key=first)[-1][:, :, 0]
    return self.patches(x.reshape(x.shape[0], *grid, -1), key=second)


class _Scales(nnx.Module):
  """Learned positions, then blocks of attention within each list."""

  def __init__(self, dim, tokens, block, depth, remat, *, rngs):
    self.positions = nnx.Param(_INIT(rngs.params(), (tokens, dim)))
    self.sequence = nnx.List(block() for _ in range(depth))
    self.remat = remat

  def __call__(
    self, x: Float[Array, "B P n D"], *, key: Key[Array, ""] | None = None
  ) -> list[Array]:
    """Returns the lists after each block."""
    x, found = x + self.positions[...].astype(x.dtype), []
    for block, own in zip(self.sequence, keys(key, len(self.sequence))):
      x = checkpointed(lambda block, x, own: block(x, key=own), self.remat)(
        block, x, own
      )
      found.append(x)
    return found

  def weights(self, x: Float[Array, "B P n D"]) -> list[Array]:
    """Returns the weights of every block, see `ScaleAttention.weights`."""
    seen = [x + self.positions[...].astype(x.dtype), *self(x)[:-1]]
    pairs = zip(self.sequence, seen)
    return [found for block, x in pairs for found in block.weights(x)]


class _Patches(nnx.Module):
  """A class token beside the cells' scale tokens, and blocks of attention."""

  def __init__(self, dim, grid, block, depth, bare, remat, norm, *, rngs):
    def draw(*shape):
      return nnx.Param(_INIT(rngs.params(), shape))

    self.class_token, self.class_position = draw(dim), draw(dim)
    self.positions = draw(*grid, dim)
    self.sequence = nnx.List(block() for _ in range(depth))
    self.norm = layer_norm(dim, EPSILON, rngs=rngs) if norm else None
    self.bare, self.remat = bare, remat

  def __call__(
    self, x: Float[Array, "B h w D"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B D"]:
    """Returns the class token after the last block."""
    z = self.each(x, key)[-1][:, 0, 0]
    return z if self.norm is None else self.norm(z)

  def weights(self, x: Float[Array, "B h w D"]) -> list[Array]:
    """Returns the weights (B, N, T, T) of every block; T = class token and cells."""
    found = []
    for block, z in zip(self.sequence, self.each(x)):
      found += [block.weights(z)] if self.bare else block.weights(z)
    return found

  def each(
    self, x: Float[Array, "B h w D"], key: Key[Array, ""] | None = None
  ) -> list[Array]:
    """Returns the tokens (B, 1, 1 + h w, D) before each block and after the last."""
    own = self.class_token[...] + self.class_position[...]
    own = jnp.broadcast_to(own.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
    places = interpolated(self.positions[...], x.shape[1:3]).astype(x.dtype)
    cells = (x + places).reshape(x.shape[0], -1, x.shape[-1])
    # One list of all cells: patch attention is attention within it.
    found = [jnp.concatenate([own, cells], axis=1)[:, None]]

    def run(block: Any, z, key):
      return block(z) if self.bare else block(z, key=key)

    for block, part in zip(self.sequence, keys(key, len(self.sequence))):
      found.append(checkpointed(run, self.remat)(block, found[-1], part))
    return found
