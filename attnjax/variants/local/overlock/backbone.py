"""The paper's networks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import transformer
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.variants.local.overlock.blocks import ConvBlock
from attnjax.variants.local.overlock.guided import GuidedContMixBlock
from attnjax.variants.local.overlock.network import (
  Auxiliary,
  Focused,
  Last,
  Network,
  Stem,
)
from attnjax.variants.local.overlock.parts import Convolution, linear


def _size(widths, depths, focus_depths, focus_heads, drop) -> dict[str, Any]:
  own = {"focus_depths": focus_depths, "focus_heads": focus_heads, "drop": drop}
  return {"widths": widths, "depths": depths} | own


# The released sizes, with the dropping of paths of their training. For images of 28 x
# 28 there is "mini", which is invented: 14 x 14 pixels, and an overview of 7 x 7.
SIZES = {
  "xt": _size((56, 112, 256, 336), (2, 2, 3, 2), (6, 2), (4, 6), 0.1),
  "t": _size((64, 128, 256, 512), (4, 4, 6, 2), (12, 2), (4, 8), 0.15),
  "s": _size((64, 128, 320, 512), (6, 6, 8, 3), (16, 3), (8, 16), 0.4),
  "b": _size((80, 160, 384, 576), (8, 8, 10, 4), (20, 4), (6, 9), 0.5),
  "mini": _size((24, 48), (1, 1), (1, 1), (2, 4), 0.1)
  | {"windows": (5, 5), "small_window": 3, "stem_strides": (2, 1), "projection": 128},
}
# Published are millions, of networks whose large kernels are merged, without the
# auxiliary classifier: 16, 33, 56 and 95, which those here have when `fuse` has merged.
PARAMETERS: dict[str, float] = {}


def Model(
  channels: int,
  classes: int,
  *,
  widths: tuple[int, ...] = (64, 128, 256, 512),
  depths: tuple[int, ...] = (4, 4, 6, 2),
  focus_depths: tuple[int, ...] = (12, 2),
  focus_heads: tuple[int, ...] = (4, 8),
  windows: tuple[int, ...] = (17, 15, 13, 7),
  small_window: int = 5,
  regions: int = 7,
  mlp_ratio: float = 4.0,
  focus_mlp_ratio: float = 3.0,
  layer_scale: float = 1.0,
  scale_input: bool = True,
  stem_strides: tuple[int, ...] = (2, 2),
  projection: int = 1024,
  auxiliary: bool = False,
  drop: float = 0.0,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Network:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  All stages but the last are the Base-Net, the last is the Overview-Net. The Focus-Net
  has two stages, with the sides of the last two. The features are the maps of the
  first stages, and the Focus-Net's, which have the context behind the features.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    widths        of the stages; a quarter of the last is the context's
    focus_depths  blocks of the Focus-Net's stages
    focus_heads   as in `ContMix`, of these stages
    windows       sides of each stage's large kernels, the last two also of the windows
    small_window, regions  as in `ContMix`
    focus_mlp_ratio  hidden width of the Focus-Net's MLPs, in the features' width
    layer_scale   with which the scales of residuals start in the last two stages and in
                  the Focus-Net; elsewhere there are none, nor anywhere if 0
    scale_input   as in `ContMixBlock`
    stem_strides  of the first and of the third convolution
    projection    width of the last map's projection
    auxiliary     whether the overview has a classifier, see `Network`
  """
  one_a_stage(widths=widths, depths=depths, windows=windows)
  one_a_stage(focus_depths=focus_depths, focus_heads=focus_heads)
  if len(widths) < 2 or len(focus_depths) != 2:
    raise ValueError(
      f"widths = {widths}, focus_depths = {focus_depths}: at least 2 stages, and 2"
    )
  drops = transformer.rates(drop, (*depths, *focus_depths))
  sums = {"scale_input": scale_input, "rngs": rngs}
  stages = []
  for i, (width, window) in enumerate(zip(widths, windows)):
    scale = layer_scale if i >= len(widths) - 2 else 0.0
    own = {"mlp_ratio": mlp_ratio, "layer_scale": scale, "window": window} | sums
    blocks = [ConvBlock(width, drop=rate, **own) for rate in drops[i]]
    stages.append(Stage(blocks, remat=remat))
  given = {"small_window": small_window, "regions": regions, "impl": impl} | sums
  given |= {"mlp_ratio": focus_mlp_ratio, "layer_scale": layer_scale}
  focus = [
    Stage(
      _guided(number, width, widths[-1] // 4, rates, heads, window, given), remat=remat
    )
    for number, (width, rates, heads, window) in enumerate(
      zip(widths[-2:], drops[len(widths) :], focus_heads, windows[-2:])
    )
  ]
  merges = [Convolution(a, b, 2, rngs=rngs) for a, b in zip(widths, widths[1:-1])]
  base = Stages(stages[:-1], merges=[None, *merges])
  both = Focused(base, stages[-1], tuple(focus), dims=widths[-2:], rngs=rngs)
  last = widths[-1] + widths[-1] // 4
  return Network(
    Stem(channels, widths[0], stem_strides, rngs=rngs),
    both,
    linear(projection, classes, rngs=rngs),
    pool=Last(last, projection, rngs=rngs),
    auxiliary=Auxiliary(widths[-1], classes, rngs=rngs) if auxiliary else None,
  )


def _guided(number, width, context, rates, heads, window, given):
  """Returns the guided blocks of a stage; the first one of all adds no context."""
  own = {"heads": heads, "window": window} | given
  return [
    GuidedContMixBlock(width, context, first=not (number or i), drop=rate, **own)
    for i, rate in enumerate(rates)
  ]


def auxiliary_loss(
  logits: Float[Array, "B C"],
  auxiliary: Float[Array, "B C"],
  labels: Int[Array, "B"],
  *,
  weight: float = 0.4,
) -> Float[Array, ""]:
  """Computes the mean cross entropy of logits, plus `weight` times the auxiliary one.

  Args:
    logits: of the network.
    auxiliary: of the overview's classifier.
    labels: of the images.
    weight: 0.4 in the authors' training.
  """

  def loss(x):
    log = jax.nn.log_softmax(x.astype(accumulator_dtype(x)))
    return -jnp.take_along_axis(log, labels[:, None], axis=1).mean()

  return loss(logits) + weight * loss(auxiliary)
