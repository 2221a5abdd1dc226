"""CrossFormer and CrossFormer++, the papers' models."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flax import nnx

from attnjax.nn.backbone import Classifier
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.nn.transformer import Block, layer_norm, rates
from attnjax.variants.local.crossformer.embedding import CrossScale
from attnjax.variants.local.crossformer.layer import Layer

COOLING = 3  # blocks from one cooling layer to the next
_INIT = nnx.initializers.truncated_normal(0.02)


def _size(dim, depths, heads, drop, **more) -> dict[str, Any]:
  return {"dim": dim, "depths": depths, "heads": heads, "drop": drop} | more


_PLUS = {"groups": (4, 4, 14, 7), "intervals": (4, 2, 1, 1), "cooling": True}
# The published sizes: T, S, B, L and H in the names of the models. For
# images of 28 x 28 there is "mini", which is invented: 14 x 14 and 7 x 7 tokens.
SIZES = {
  "tiny": _size(64, (1, 1, 8, 6), (2, 4, 8, 16), 0.1),
  "small": _size(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
  "base": _size(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
  "large": _size(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
  "small++": _size(64, (2, 2, 18, 2), (2, 4, 8, 16), 0.2, **_PLUS),
  "base++": _size(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, **_PLUS),
  "large++": _size(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, **_PLUS),
  "huge++": _size(128, (6, 6, 18, 2), (4, 8, 16, 32), 0.5, **_PLUS),
  "mini": _size(
    32, (2, 2), (2, 4), 0.1, groups=(4, 4), intervals=(0, 0), stem=(2, 4, 8)
  ),
}
PARAMETERS = {"tiny": 27.8e6, "small": 30.7e6, "base": 52.0e6, "large": 92.0e6}


def Model(
  channels: int,
  classes: int,
  *,
  dim: int = 96,
  depths: tuple[int, ...] = (2, 2, 6, 2),
  heads: tuple[int, ...] = (3, 6, 12, 24),
  groups: tuple[int, ...] = (7, 7, 7, 7),
  intervals: tuple[int, ...] = (0, 0, 0, 0),
  stem: tuple[int, ...] = (4, 8, 16, 32),
  merge: tuple[int, ...] = (2, 4),
  cooling: bool = False,
  mlp_ratio: float = 4.0,
  drop: float = 0.2,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Stages of blocks in which short and long distances take turns, each behind a
  cross-scale embedding, which pads image sides to what its stride divides.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    dim        width of the first stage, which doubles from stage to stage
    groups     of each stage
    intervals  of each stage; 0 where a group spans the image
    stem       sizes of the patches of the first embedding; the first is its stride
    merge      sizes of the patches of the embeddings between the stages
    cooling    whether there are amplitude cooling layers, as in CrossFormer++
  """
  one_a_stage(depths=depths, heads=heads, groups=groups, intervals=intervals)
  merges, stages = [], []
  for stage, drops in enumerate(rates(drop, depths)):
    width = dim * 2**stage
    embed = (width // 2, width, merge) if stage else (channels, width, stem)
    merges.append(CrossScale(*embed, first=stage > 0, rngs=rngs))
    options = {"heads": heads[stage], "window": groups[stage], "impl": impl}
    mixer = partial(Layer, width, interval=intervals[stage], **options)
    blocks = _blocks(width, mixer, int(mlp_ratio * width), drops, cooling, rngs)
    stages.append(Stage(blocks, remat=remat))
  norm = layer_norm(width, rngs=rngs)
  head = nnx.Linear(width, classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(None, Stages(stages, merges=merges, norm=norm), head)


def _blocks(dim, mixer, hidden, drops: Sequence[float], cooling, rngs) -> list:
  blocks: list[Any] = [
    Block(dim, mixer, hidden=hidden, drop=drop, rngs=rngs) for drop in drops
  ]
  # Every third block but a stage's last one is cooled.
  for number in range(COOLING - 1, len(blocks) - 1, COOLING) if cooling else ():
    blocks[number] = _Cooled(blocks[number], dim, rngs=rngs)
  return blocks


class _Cooled(nnx.Module):
  """A block and an amplitude cooling layer: a depthwise convolution and a norm."""

  def __init__(self, block: Block, dim: int, *, rngs: nnx.Rngs):
    self.block = block
    self.convolution = Depthwise(dim, 3, rngs=rngs)
    self.norm = layer_norm(dim, rngs=rngs)

  def __call__(self, x, **context):
    return self.norm(self.convolution(self.block(x, **context)))

  def weights(self, x, **context):
    return self.block.weights(x, **context)
