"""The form "backbone": a whole published network for images; host: backbone.

A system's module has

  Model       Model(channels, classes, *, rngs, **hyper-parameters), which builds an
              `attnjax.nn.backbone.Classifier`
  SIZES       size -> the hyper-parameters that differ from the defaults
  PARAMETERS  size -> the number of parameters of the paper, for 3 channels and 1,000
              classes; sizes whose number is not published are left out
  PADDED      not in all: True where images are padded to whole cells of the last
              stage; elsewhere each stage pads the map that it is given

  model = Model(3, 1000, **SIZES["tiny"], rngs=nnx.Rngs(0))
  logits, stats = model(images, key=key, stats=model.init_stats(), train=True)

Images (B, H, W, channels) are of any size. `model.features(images)` are the maps of all
stages, `model.weights(images)` the weights of all attentions. The size "mini", in every
module, is invented: a CPU trains it on images of 28 x 28 in minutes.

Names that mean the same in all networks that have them:

  channels   of the images
  classes    number of logits
  dims       width of each stage
  depths     number of blocks of each stage
  heads      of each stage; they divide its width
  mlp_ratio  hidden width of the MLPs, in the stage's width
  drop       share of examples for which the residuals of the last block are left out in
             training; it rises over the blocks from 0 in equal steps
  dropout    share of units that are left out in training, the same in all blocks
  remat      what `jax.checkpoint` keeps of each block, see `attnjax.nn.stack.REMAT`
  impl       of the attention, as in `attend`
  rngs       for the parameters
"""

from typing import Any, Protocol

from flax import nnx

from attnjax.contract.networks import NETWORKS


class Builder(Protocol):
  """A function `Model`."""

  def __call__(self, channels: int, classes: int, *, rngs: nnx.Rngs, **options) -> Any:
    """Returns a Classifier."""
    ...


CHECKS = NETWORKS
