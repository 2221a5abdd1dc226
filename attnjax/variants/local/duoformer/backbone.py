"""DuoFormer, the paper's model: a convolutional network's maps, then the encoder."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.softmax import wide
from attnjax.nn import running
from attnjax.variants.local.duoformer.encoder import Encoder
from attnjax.variants.local.duoformer.layer import SPREAD
from attnjax.variants.local.duoformer.resnet import SIZES, ResNet, Size
from attnjax.variants.local.duoformer.tokens import scale_tokens

CELL = 32  # pixels of a cell on each axis
_INIT = nnx.initializers.truncated_normal(0.02)
_KAIMING = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Model(nnx.Module):
  """images (B, H, W, C) of any size -> logits (B, classes).

  Images are padded with zeros at their right and bottom to whole cells of 32 pixels.
  The scale token is one learned vector ("random" in the official code).

  Args:
    channels: C.
    classes: number of logits.
    size: the convolutional network, for instance SIZES["resnet18"].
    scales: how many of its four maps are seen, the coarsest first.
    dim: width of the encoder.
    heads: of its attentions.
    depth: number of its blocks of each kind.
    options: more of `Encoder`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    size: Size = SIZES["resnet18"],
    scales: int = 4,
    dim: int = 768,
    heads: int = 12,
    depth: int = 12,
    rngs: nnx.Rngs,
    **options,
  ):
    if not 1 <= scales <= len(size.depths):
      raise ValueError(f"scales = {scales}: it must be from 1 to {len(size.depths)}")
    self.network = ResNet(channels, size=size, rngs=rngs)
    self.projections = nnx.List(
      nnx.Linear(width, dim, kernel_init=_KAIMING, rngs=rngs)
      for width in self.network.dims[::-1][:scales]
    )
    draw = nnx.initializers.truncated_normal(SPREAD)
    self.token = nnx.Param(draw(rngs.params(), (dim,)))
    tokens = 1 + sum(4**number for number in range(scales))
    self.encoder = Encoder(
      dim, heads=heads, depth=depth, tokens=tokens, rngs=rngs, **options
    )
    self.head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B classes"], Any]:
    """(logits of the classes, new statistics)."""
    carry = running.Carry(self, stats, train)
    maps = carry(self.network, _whole(images))
    tokens = self.encoder(self._lists(maps), maps[-1].shape[1:3], key=key)
    logits = self.head(tokens)
    return carry.result(logits.astype(wide(logits)))

  def features(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[list[Array], Any]:
    """(maps, new statistics): those of the network and the cells' scale tokens.

    The finest map is the first.
    """
    carry = running.Carry(self, stats, train)
    maps = carry(self.network, _whole(images))
    last = self.encoder.scales(self._lists(maps), key=key)[-1][:, :, 0]
    return carry.result([*maps, last.reshape(*maps[-1].shape[:3], -1)])

  def _lists(self, maps):
    """The lists of tokens, with the scale token in place 0."""
    lists = scale_tokens([p(x) for p, x in zip(self.projections, maps[::-1])])
    token = self.token[...].astype(lists.dtype)
    first = jnp.broadcast_to(token, (*lists.shape[:2], 1, token.size))
    return jnp.concatenate([first, lists], axis=2)


def _whole(images):
  """Images of whole cells."""
  missing = ((0, -side % CELL) for side in images.shape[1:3])
  return jnp.pad(images, ((0, 0), *missing, (0, 0)))
