"""The paper's network: a stem, stages of local and of global blocks, a linear head."""

from typing import Any

import jax
from flax import nnx

from attnjax.nn import running, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.norms import BatchNorm
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.variants.local.medvitv2.blocks import GFP, LFP

_INIT = nnx.initializers.truncated_normal(0.02)


def _size(dims, depths, drop, **more) -> dict[str, Any]:
  return {"dims": dims, "depths": depths, "drop": drop} | more


# The released sizes. For images of 28 x 28 there is "mini", which is invented: 14 x 14
# tokens in a local block, then 7 x 7 in a local and in a global one.
SIZES = {
  "tiny": _size((64, 128, 192, 384), (2, 2, 6, 1), 0.1),
  "small": _size((64, 128, 256, 512), (2, 2, 6, 2), 0.1),
  "base": _size((96, 192, 384, 768), (2, 2, 6, 2), 0.2),
  "large": _size((96, 256, 512, 1024), (2, 2, 6, 2), 0.2),
  "mini": _size(
    (32, 128),
    (1, 2),
    0.1,
    stem_widths=(16, 16),
    stem_strides=(2, 1),
    ratios=(4, 2),
    window=5,
  ),
}
PARAMETERS: dict[str, float] = {}  # neither the abstract nor the code has them


def Model(
  channels: int,
  classes: int,
  *,
  dims: tuple[int, ...] = (64, 128, 256, 512),
  depths: tuple[int, ...] = (2, 2, 6, 2),
  ratios: tuple[int, ...] = (8, 4, 2, 1),
  stem_widths: tuple[int, ...] = (64, 32, 64, 64),
  stem_strides: tuple[int, ...] = (2, 1, 1, 2),
  window: int = 7,
  dilation: int = 1,
  head_dim: int = 32,
  share: float = 0.75,
  layout_bug: bool = False,
  drop: float = 0.1,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  The first stage is local, the second ends with a global block, in the third every
  third block is global, and the last is global.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    ratios       of the pooled attention in each stage
    stem_widths  channels of the first convolutions
    stem_strides their strides
    window       of the neighbourhood attention
    dilation     as in `Layer`: 1 as released, 0 for dilation in every second block
    head_dim     as in the blocks, of all attentions
    share        as in `GFP`
    layout_bug   reads maps as the published weights' code does, see the module
  """
  one_a_stage(dims=dims, depths=depths, ratios=ratios)
  one_a_stage(stem_widths=stem_widths, stem_strides=stem_strides)
  stem, below = _Stem(channels, stem_widths, stem_strides, rngs=rngs), stem_widths[-1]
  stages = []
  local = {"window": window, "dilation": dilation, "impl": impl}
  for stage, drops in enumerate(transformer.rates(drop, depths)):
    widths = below, dims[stage]
    pooled = {"ratio": ratios[stage], "share": share}
    options = {"head_dim": head_dim, "layout_bug": layout_bug, "rngs": rngs}
    blocks = _blocks(stage, *widths, drops, local, pooled, options)
    stages.append(Stage(blocks, remat=remat))
    below = dims[stage]
  norm = BatchNorm(below)
  head = nnx.Linear(below, classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, Stages(stages, norm=norm), head)


def _blocks(stage, below, dim, drops, local, pooled, options) -> list:
  blocks, local = [], local | {"kernel": 3 if stage else 7}
  for number, drop in enumerate(drops):
    given = options | {"stride": 2 if stage and not number else 1, "drop": drop}
    whole = _global(stage, number, len(drops))
    make, more = (GFP, pooled) if whole else (LFP, local)
    blocks.append(make(below if not number else dim, dim, **given, **more))
  return blocks


def _global(stage: int, number: int, depth: int) -> bool:
  rules = (False, number == depth - 1, number % 3 == 2, True)
  return rules[min(stage, len(rules) - 1)]


class _Stem(nnx.Module):
  """Convolutions, one after the other."""

  init_stats = running.init_stats

  def __init__(self, channels, widths, strides, *, rngs):
    self.convolutions = nnx.List(
      _Convolution(below, width, stride, rngs=rngs)
      for below, width, stride in zip((channels, *widths), widths, strides)
    )

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    for convolution in self.convolutions:
      x = carry(convolution, x)
    return carry.result(x)


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
