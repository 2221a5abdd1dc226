"""A hierarchical vision model around any mechanism on feature maps.

Stages of blocks at falling resolution and growing width, as in Ze Liu et al. Swin
Transformer. arXiv:2103.14030, section 3.1: each stage begins by merging patches of
2 x 2. Fixed 2-D sinusoids are added once, so images of any size fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from attnjax.nn.backbone import Classifier
from attnjax.nn.patches import Patches
from attnjax.nn.stack import Stack, hidden_size
from attnjax.nn.stages import Stages, one_a_stage

FORMS = ("image",)
TAKES = "images"  # what its data sets hold
SIZES = ("channels", "classes")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"],), {}


def Model(
  builds: Sequence[Callable],
  *,
  channels: int,
  classes: int,
  patch: int = 2,
  dims: tuple[int, ...] = (32, 64),
  depths: tuple[int, ...] = (2, 2),
  mlp_ratio: float = 4.0,
  dropout: float = 0.0,
  remat: str = "none",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) -> logits (B, classes) float32.

  Args:
    builds: make the layers; those of every stage repeat the pattern.
    channels: of the images.
    classes: number of logits.
    patch: side of the first stage's patches.
    dims: width of each stage.
    depths: number of blocks of each stage.
    mlp_ratio: hidden width of the MLPs, in the stage's width; 0: no MLP.
    dropout: share of units that are left out.
    remat: see `nn.stack.REMAT`.
    rngs: for the parameters.
  """
  one_a_stage(dims=dims, depths=depths)
  merges, stages = [], []
  for stage, (dim, depth) in enumerate(zip(dims, depths)):
    above, size = (dims[stage - 1], 2) if stage else (channels, patch)
    merges.append(Patches(above, dim, size, positions=not stage, rngs=rngs))
    stages.append(
      Stack(
        builds,
        dim=dim,
        depth=depth,
        norm="layer",
        feed_forward="gelu",
        hidden=hidden_size(dim, mlp_ratio),
        dropout=dropout,
        remat=remat,
        rngs=rngs,
      )
    )
  norms = [nnx.LayerNorm(dim, rngs=rngs) for dim in dims]
  head = nnx.Linear(dims[-1], classes, rngs=rngs)
  return Classifier(None, Stages(stages, merges=merges, norms=norms), head)
