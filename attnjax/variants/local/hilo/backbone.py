"""LITv2, the paper's model: convolutions in its MLPs, HiLo in its later stages."""

import dataclasses
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.softmax import wide
from attnjax.nn import running
from attnjax.nn.patches import Patches
from attnjax.nn.transformer import Block, keys, layer_norm, rates
from attnjax.variants.local.hilo.layer import Layer
from attnjax.variants.local.hilo.merging import DeformableMerge

_INIT = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class Size:
  """One of the published sizes.

  Attributes:
    dim: width of the first stage, which doubles from stage to stage.
    depths: number of blocks of each stage.
    heads: of each stage.
    windows: of each stage; 0 for blocks without attention.
    alpha: share of low heads.
    drop: share of dropped paths in the last block.
  """

  dim: int
  depths: tuple[int, ...]
  heads: tuple[int, ...]
  windows: tuple[int, ...] = (0, 0, 2, 1)
  alpha: float = 0.9
  drop: float = 0.2


SIZES = {
  "S": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
  "M": Size(96, (2, 2, 18, 2), (3, 6, 12, 24), drop=0.3),
  "B": Size(128, (2, 2, 18, 2), (4, 8, 16, 32), drop=0.5),
}


class Model(nnx.Module):
  """images (B, H, W, C) of any size -> logits (B, classes).

  Four stages of patches of 4, 8, 16 and 32 pixels. Blocks of the first two have no
  attention; every MLP has a depthwise convolution, which tells places.

  Args:
    channels: C.
    classes: number of logits.
    size: what to build, for instance SIZES["S"].
    mlp_ratio: hidden width of the MLPs, in the stage's width.
    deformable: whether stages begin with the paper's deformable convolution, or with a
      plain one.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    size: Size = SIZES["S"],
    mlp_ratio: float = 4.0,
    deformable: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    lengths = {len(size.depths), len(size.heads), len(size.windows)}
    if len(lengths) > 1:
      raise ValueError(f"{size}: depths, heads and windows need one entry a stage")
    self.patches = Patches(channels, size.dim, 4, rngs=rngs)
    self.patch_norm = layer_norm(size.dim, rngs=rngs)
    self.merges, self.stages = nnx.List([]), nnx.List([])
    for stage, drops in enumerate(rates(size.drop, size.depths)):
      dim, window, mixer = size.dim * 2**stage, size.windows[stage], None
      if stage:
        self.merges.append(DeformableMerge(dim // 2, dim, deformable, rngs=rngs))
      if window:
        options = {"heads": size.heads[stage], "window": window, "impl": impl}
        mixer = partial(Layer, dim, alpha=size.alpha, **options)
      hidden = int(mlp_ratio * dim)
      self.stages.append(
        nnx.List(
          Block(dim, mixer, hidden=hidden, kernel=3, drop=drop, rngs=rngs)
          for drop in drops
        )
      )
    self.norm = layer_norm(dim, rngs=rngs)
    self.head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Logits of the classes, and new statistics if some are given.

    `key` turns the dropping of paths on.
    """
    carry = running.Carry(self, stats, train)
    logits = self.head(self._features(carry, images, key)[-1].mean(axis=(1, 2)))
    return carry.result(logits.astype(wide(logits)))

  def features(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """The map (B, h, w, D) of every stage, for dense tasks; the last is normalised."""
    carry = running.Carry(self, stats, train)
    return carry.result(self._features(carry, images, key))

  def _features(self, carry, images, key):
    x, found = self.patch_norm(self.patches(images)), []
    for number, blocks in enumerate(self.stages):
      x = carry(self.merges[number - 1], x) if number else x
      own = None if key is None else jax.random.fold_in(key, number)
      for block, part in zip(blocks, keys(own, len(blocks))):
        x = block(x, key=part)
      found.append(x)
    return [*found[:-1], self.norm(found[-1])]
