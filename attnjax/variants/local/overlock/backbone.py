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

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    widths           of the stages; a quarter of the last is the context's
    focus_depths     blocks of the Focus-Net's two stages
    focus_heads      as in `ContMix`, of these
    windows          sides of each stage's large kernels, and of the Focus-Net's windows
    small_window, regions  as in `ContMix`
    focus_mlp_ratio  hidden width of the Focus-Net's MLPs, in the features' width
    layer_scale, scale_input  as in `base`
    stem_strides     of the first and of the third convolution
    projection       width of the last map's projection
    auxiliary        whether the overview has a classifier, see `Network`
  """
  drops = transformer.rates(drop, (*depths, *focus_depths))
  own = dict(layer_scale=layer_scale, scale_input=scale_input, remat=remat, rngs=rngs)
  stages = base(widths, drops, windows, mlp_ratio=mlp_ratio, **own)
  own |= dict(mlp_ratio=focus_mlp_ratio, small_window=small_window)
  own |= dict(regions=regions, impl=impl)
  last = focus(widths, drops, windows, heads=focus_heads, **own)
  ends = dict(strides=stem_strides, projection=projection, auxiliary=auxiliary)
  return _assembled(channels, classes, stages, last, widths, rngs, **ends)


def _assembled(
  channels, classes, stages, last, widths, rngs, *, strides, projection, auxiliary
) -> Network:
  """Returns the network of the stages of base and overview, and of the focus."""
  merges = [Convolution(a, b, 2, rngs=rngs) for a, b in zip(widths, widths[1:-1])]
  whole = Stages(stages[:-1], merges=[None, *merges])
  return Network(
    Stem(channels, widths[0], strides, rngs=rngs),
    Focused(whole, stages[-1], last, dims=widths[-2:], rngs=rngs),
    linear(projection, classes, rngs=rngs),
    pool=Last(widths[-1] + widths[-1] // 4, projection, rngs=rngs),
    auxiliary=Auxiliary(widths[-1], classes, rngs=rngs) if auxiliary else None,
  )


def base(
  widths, drops, windows, *, mlp_ratio, layer_scale, scale_input, remat, rngs
) -> list[Stage]:
  """Returns the stages of the Base-Net, and that of the Overview-Net as the last.

  Args:
    widths: of the stages.
    drops: rates of dropping of the blocks of each stage, the Focus-Net's last.
    windows: sides of each stage's large kernels.
    mlp_ratio: hidden width of the MLPs, in the stage's width.
    layer_scale: with which the scales of residuals start in the last two stages;
      elsewhere there are none, nor anywhere if 0.
    scale_input: as in `ConvBlock`.
    remat: as in `Stage`.
    rngs: for the parameters.
  """
  if len(widths) < 2 or len(drops) != len(widths) + 2:
    raise ValueError(
      f"widths = {widths}: at least 2 stages; {len(drops)} stages have depths: as many"
      " as there are widths, and 2 of the Focus-Net"
    )
  one_a_stage(widths=widths, windows=windows)
  found, own = [], {"mlp_ratio": mlp_ratio, "scale_input": scale_input, "rngs": rngs}
  for i, (width, window, rates) in enumerate(zip(widths, windows, drops)):
    scale = layer_scale if i >= len(widths) - 2 else 0.0
    own |= {"layer_scale": scale, "window": window}
    blocks = [ConvBlock(width, drop=rate, **own) for rate in rates]
    found.append(Stage(blocks, remat=remat))
  return found


def focus(widths, drops, windows, *, heads, remat, **options) -> tuple[Stage, Stage]:
  """Returns the two stages of the Focus-Net, with the last two widths and windows.

  Args:
    widths: of the stages of the other parts.
    drops: as in `base`.
    windows: sides of the windows.
    heads: as in `ContMix`, of both stages.
    remat: as in `Stage`.
    **options: of `GuidedContMixBlock`.
  """
  one_a_stage(focus_heads=heads, focus_depths=drops[-2:])
  found = []
  for number, (width, window) in enumerate(zip(widths[-2:], windows[-2:])):
    own = {"heads": heads[number], "window": window} | options
    # The context is that of the overview already at the first block of all.
    blocks = [
      GuidedContMixBlock(
        width, widths[-1] // 4, first=not (number or i), drop=rate, **own
      )
      for i, rate in enumerate(drops[number - 2])
    ]
    found.append(Stage(blocks, remat=remat))
  return found[0], found[1]


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
