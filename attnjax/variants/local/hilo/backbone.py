"""LITv2, the paper's model: convolutions in its MLPs, HiLo in its later stages."""

from functools import partial
from typing import Any

from flax import nnx

from attnjax.nn.backbone import Classifier
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.nn.transformer import Block, layer_norm, rates
from attnjax.variants.local.hilo.layer import Layer
from attnjax.variants.local.hilo.merging import DeformableMerge

_INIT = nnx.initializers.truncated_normal(0.02)


def _size(dim, depths, heads, drop, **more) -> dict[str, Any]:
  return {"dim": dim, "depths": depths, "heads": heads, "drop": drop} | more


# The published sizes. For images of 28 x 28 there is "mini", which is invented: 14 x
# 14 tokens without attention, then 7 x 7 in windows of 2 x 2 and 4 x 4.
SIZES = {
  "small": _size(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
  "medium": _size(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
  "base": _size(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
  "mini": _size(32, (1, 2, 1), (1, 2, 4), 0.1, windows=(0, 2, 1), alpha=0.5, patch=2),
}
PARAMETERS = {"small": 28.0e6, "medium": 49.0e6, "base": 87.0e6}


def Model(
  channels: int,
  classes: int,
  *,
  dim: int = 96,
  depths: tuple[int, ...] = (2, 2, 6, 2),
  heads: tuple[int, ...] = (3, 6, 12, 24),
  windows: tuple[int, ...] = (0, 0, 2, 1),
  alpha: float = 0.9,
  patch: int = 4,
  deformable: bool = True,
  mlp_ratio: float = 4.0,
  qkv_bias: bool = True,
  drop: float = 0.2,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Patches, then stages that halve the map. Blocks of the first two have no attention;
  every MLP has a depthwise convolution, which tells places. Odd maps are padded.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    dim         width of the first stage, which doubles from stage to stage
    windows     side of each stage's windows; 0 for blocks without attention
    alpha       share of low heads
    patch       side of the patches
    deformable  whether stages begin with the paper's deformable convolution, or with
                a plain one
    qkv_bias    as in `Layer`
  """
  one_a_stage(depths=depths, heads=heads, windows=windows)
  stem, merges, stages = _Stem(channels, dim, patch, rngs=rngs), [], []
  for stage, drops in enumerate(rates(drop, depths)):
    width, mixer = dim * 2**stage, None
    merge = (width // 2, width, deformable)
    merges.append(DeformableMerge(*merge, rngs=rngs) if stage else None)
    if window := windows[stage]:
      options = {"heads": heads[stage], "window": window, "impl": impl}
      mixer = partial(Layer, width, alpha=alpha, qkv_bias=qkv_bias, **options)
    options = {"hidden": int(mlp_ratio * width), "kernel": 3, "rngs": rngs}
    blocks = [Block(width, mixer, drop=rate, **options) for rate in drops]
    stages.append(Stage(blocks, remat=remat))
  norm = layer_norm(width, rngs=rngs)
  head = nnx.Linear(width, classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, Stages(stages, merges=merges, norm=norm), head)


class _Stem(nnx.Module):
  """Patches and a norm."""

  def __init__(self, channels: int, dim: int, size: int, *, rngs: nnx.Rngs):
    self.patches = Patches(channels, dim, size, rngs=rngs)
    self.norm = layer_norm(dim, rngs=rngs)

  def __call__(self, images):
    return self.norm(self.patches(images))
