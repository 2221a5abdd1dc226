"""The paper's network: a stem, stages of blocks, a head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.softmax import wide
from attnjax.nn import running, transformer
from attnjax.variants.local.maxvit.blocks import Block, norm

_INIT = nnx.initializers.normal(0.02)


def _size(depths, dim, stem, drop) -> dict[str, Any]:
  dims = tuple(dim * 2**i for i in range(4))
  return {"depths": depths, "dims": dims, "stem": stem, "drop": drop}


# Table 1 of the paper, and the official configurations.
SIZES = {
  "tiny": _size((2, 2, 5, 2), 64, 64, 0.2),
  "small": _size((2, 2, 5, 2), 96, 64, 0.3),
  "base": _size((2, 6, 14, 2), 96, 64, 0.4),
  "large": _size((2, 6, 14, 2), 128, 128, 0.6),
  "xlarge": _size((2, 6, 14, 2), 192, 192, 0.6),
}


class Model(nnx.Module):
  """Images (B, H, W, channels) of any size to logits (B, classes) float32.

  Two convolutions, the first of stride 2; then stages, each beginning with stride 2.

  Args:
    channels: of the images.
    classes: number of logits.
    depths: number of blocks of each stage.
    dims: width of each stage.
    stem: channels of the first convolutions.
    partition: side of windows and grids, the same in all stages: 7 for images of 224.
    head_dim: H.
    drop: of the last block; the blocks before it have less, in equal steps.
    rngs: for the parameters.
    options: more of `Block`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    depths: tuple[int, ...] = (2, 2, 5, 2),
    dims: tuple[int, ...] = (64, 128, 256, 512),
    stem: int = 64,
    partition: int = 7,
    head_dim: int = 32,
    drop: float = 0.2,
    rngs: nnx.Rngs,
    **options,
  ):
    if len(dims) != len(depths):
      raise ValueError(f"dims {dims} and depths {depths} differ in their length")
    self.stem = nnx.List(
      nnx.Conv(
        below,
        stem,
        (3, 3),
        strides=stride,
        padding="SAME",
        kernel_init=_INIT,
        rngs=rngs,
      )
      for below, stride in ((channels, 2), (stem, 1))
    )
    self.stem_norm = norm(stem)
    self.stages = nnx.List(
      nnx.List(
        Block(
          dim if number else below,
          dim,
          stride=1 if number else 2,
          window=partition,
          grid=partition,
          head_dim=head_dim,
          drop=rate,
          rngs=rngs,
          **options,
        )
        for number, rate in enumerate(rates)
      )
      for below, dim, rates in zip((stem, *dims), dims, transformer.rates(drop, depths))
    )
    self.norm = transformer.layer_norm(dims[-1], rngs=rngs)
    self.last = nnx.Linear(dims[-1], dims[-1], kernel_init=_INIT, rngs=rngs)
    self.head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)

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
    pooled = self.norm(self._features(carry, images, key)[-1].mean(axis=(1, 2)))
    logits = self.head(jnp.tanh(self.last(pooled)))
    return carry.result(logits.astype(wide(logits)))

  def features(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[list[Array], Any]:
    """(the map (B, h, w, D) after every stage, new statistics), for dense tasks."""
    carry = running.Carry(self, stats, train)
    return carry.result(self._features(carry, images, key))

  def _features(self, carry, images, key):
    x = jax.nn.gelu(carry(self.stem_norm, self.stem[0](images)))
    x, found = self.stem[1](x), []
    for stage, blocks in enumerate(self.stages):
      own = None if key is None else jax.random.fold_in(key, stage)
      for block, part in zip(blocks, transformer.keys(own, len(blocks))):
        x = carry(block, x, key=part)
      found.append(x)
    return found
