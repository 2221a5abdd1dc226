"""The paper's network: a stem, stages of local and of global blocks, a linear head."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.softmax import wide
from attnjax.nn import running, transformer
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.medvitv2.blocks import GFP, LFP

_INIT = nnx.initializers.truncated_normal(0.02)
STEM = ((64, 2), (32, 1), (64, 1), (64, 2))  # channels and strides
RATIOS = (8, 4, 2, 1)  # of the pooled attention in each stage


@dataclasses.dataclass(frozen=True)
class Size:
  """One of the released sizes.

  Attributes:
    dims: width of each stage.
    depths: number of blocks of each stage.
    drop: share of dropped paths in the last block.
  """

  dims: tuple[int, ...]
  depths: tuple[int, ...] = (2, 2, 6, 2)
  drop: float = 0.2


SIZES = {
  "tiny": Size((64, 128, 192, 384), (2, 2, 6, 1), 0.1),
  "small": Size((64, 128, 256, 512), drop=0.1),
  "base": Size((96, 192, 384, 768)),
  "large": Size((96, 256, 512, 1024)),
}


class Model(nnx.Module):
  """images (B, H, W, C) of any size -> logits (B, classes) float32.

  The first stage is local, the second ends with a global block, in the third every
  third block is global, and the last is global.

  Args:
    channels: C.
    classes: number of logits.
    size: what to build, for instance SIZES["tiny"].
    window: of the neighbourhood attention.
    dilation: as in `Layer`: 1 as released, 0 for dilation in every second block.
    layout_bug: reads maps as the published weights' code does, see the module.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    size: Size = SIZES["small"],
    window: int = 7,
    dilation: int = 1,
    layout_bug: bool = False,
    rngs: nnx.Rngs,
  ):
    if not len(size.dims) == len(size.depths) == len(RATIOS):
      raise ValueError(f"{size}: dims and depths need one entry a stage")
    widths = (channels, *(width for width, _ in STEM))
    self.stem = nnx.List(
      _Convolution(below, width, stride, rngs=rngs)
      for below, (width, stride) in zip(widths, STEM)
    )
    self.stages, below = nnx.List([]), widths[-1]
    for stage, drops in enumerate(transformer.rates(size.drop, size.depths)):
      blocks, dim = nnx.List([]), size.dims[stage]
      for number, drop in enumerate(drops):
        stride = 2 if stage and not number else 1
        options: dict[str, Any] = {"stride": stride, "drop": drop}
        options["layout_bug"] = layout_bug
        if _global(stage, number, len(drops)):
          block = GFP(below, dim, ratio=RATIOS[stage], rngs=rngs, **options)
        else:
          options |= {"window": window, "dilation": dilation}
          kernel = 3 if stage else 7
          block = LFP(below, dim, kernel=kernel, rngs=rngs, **options)
        blocks.append(block)
        below = dim
      self.stages.append(blocks)
    self.norm = BatchNorm(below)
    self.head = nnx.Linear(below, classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B classes"], Any]:
    """(logits of the classes, new statistics); `key` turns the dropping of paths on."""
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
  ) -> tuple[list[Array], Any]:
    """(the map (B, h, w, D) of every stage, new statistics), for dense tasks.

    The last map is normalised.
    """
    carry = running.Carry(self, stats, train)
    return carry.result(self._features(carry, images, key))

  def _features(self, carry, images, key):
    x, found = images, []
    for part in self.stem:
      x = carry(part, x)
    for stage, blocks in enumerate(self.stages):
      own = None if key is None else jax.random.fold_in(key, stage)
      parts = transformer.keys(own, len(blocks))
      for number, (block, part) in enumerate(zip(blocks, parts)):
        x = carry(block, x, index=number, key=part)
      found.append(x)
    return [*found[:-1], carry(self.norm, found[-1])]


def _global(stage: int, number: int, depth: int) -> bool:
  rules = (False, number == depth - 1, number % 3 == 2, True)
  return rules[stage]


class _Convolution(nnx.Module):
  """3 x 3 without a bias, a norm, ReLU."""

  def __init__(self, below, dim, stride, *, rngs):
    self.convolve = nnx.Conv(
      below,
      dim,
      (3, 3),
      strides=stride,
      padding=((1, 1), (1, 1)),
      use_bias=False,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.norm = BatchNorm(dim)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    return carry.result(jax.nn.relu(carry(self.norm, self.convolve(x))))
