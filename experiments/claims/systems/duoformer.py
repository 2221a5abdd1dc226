"""DuoFormer: fine maps, seen through scale tokens, tell what the coarse one does not.

Claimed (arXiv:2506.12982, abstract): attention across the
scales of each place, before attention between the places, classifies better than
attention between the places of the coarsest map alone.

The published network, its backbone trained along with all else (before the protocol it
was drawn at random and frozen, and with a trained one the gain had vanished): a ResNet
of one block a stage, 16, 32 and 64 wide, whose three maps have 8, 4 and 2 cells a side,
and the encoder 32 wide with two blocks of each kind, pre-norm patch blocks, which the
sheet asks for. The coarsest map alone is the same network with one scale: its backbone
is trained too, and its receptive field covers all, so that it can reach the answer.
Without the mechanism the scale attentions give zero, and scale tokens know nothing.

The sheet's task, smaller: 32 x 32 grey pixels in noise hold a disc of radius 5 and a
round patch of stripes of period 2, in two of the four quarters or both in one; are they
together? An own task, since the shared suite has no image in which a fine texture must
be told to be inside of something coarse. 400 updates of 32 images, where the sheet has
1500 on 56 x 56 pixels. The margin is the sheet's three points.

  python -m experiments.claims duoformer

It takes about four processor minutes.
"""

import functools
from typing import Any

import numpy as np
from flax import nnx

from attnjax.variants.local import duoformer
from experiments import small
from experiments.claims import rows
from experiments.claims.claim import NotTestable, Quality
from experiments.small import problem as problems

SIDE, RADIUS, NOISE = 32, 5, 0.8
RATES = 1e-3, 3e-3, 1e-2
_SPLITS = ("train", "validation", "test")


@functools.lru_cache(maxsize=8)
def _examples(seed, split):
  rng = np.random.default_rng([seed, _SPLITS.index(split)])
  number = 4000 if split == "train" else 400
  label = rng.integers(2, size=number)
  quarters = rng.permuted(np.tile(np.arange(4), (number, 1)), axis=1)
  spots = rng.integers(RADIUS, SIDE // 2 - RADIUS, size=(2, number, 2), endpoint=True)
  disc = _round(quarters[:, 0], spots[0])
  apart = _round(quarters[:, 1], spots[1])
  fine = np.where(label[:, None, None] == 1, disc, apart)
  wave = np.where(np.arange(SIDE) % 2, 1.0, -1.0)
  upright = rng.integers(2, size=(number, 1, 1))
  image = disc + fine * np.where(upright, wave, wave[:, None])
  image = image + NOISE * rng.standard_normal(image.shape)
  return {
    "image": image[..., None].astype(np.float32),
    "label": label.astype(np.int32),
  }


def _round(quarter, spot):
  """Returns (B, SIDE, SIDE), 1 around a place (B, 2) in a quarter (B,)."""
  centre = np.stack(np.divmod(quarter, 2), -1) * (SIDE // 2) + spot
  away = np.indices((SIDE, SIDE))[None] - centre[:, :, None, None]
  return ((away**2).sum(1) <= RADIUS**2).astype(float)


PROBLEM = small.Problem(_examples, problems.class_loss, problems.class_score)


def _net(scales, silent=False):
  def build(key):
    model = duoformer.Model(
      1,
      2,
      blocks=(1, 1, 1),
      widths=(16, 32, 64),
      scales=scales,
      dim=32,
      heads=4,
      depth=2,
      grid=(2, 2),
      mlp_ratio=2.0,
      rngs=nnx.Rngs(key),
    )
    for block in model.stages.scales.sequence if silent else ():
      block.mixer = small.without(_given(block.mixer))()
    return model

  return build


def _given(layer):
  """Returns a constructor of a layer that is there."""
  build: Any = lambda: layer  # noqa: E731
  build.form, build.module = "image", duoformer
  return build


_row = functools.partial(rows.trained, problem=PROBLEM, recipe=small.Recipe(steps=400))
CLAIMS = (
  Quality(
    sentence="Attention across three scales classifies better than the coarsest map"
    " alone.",
    source="abstract",
    unit="of images",
    better="more",
    rows=(
      _row("three scales", "mechanism", _net(3)),
      _row("without scale attention", "without", _net(3, silent=True)),
      _row("the coarsest map alone", "baseline", _net(1)),
      rows.untrained("three scales, untrained", _net(3), PROBLEM),
    ),
    against="the coarsest map alone",
    margin=0.03,
    rates=RATES,
  ),
  NotTestable(
    sentence="Slides of kidneys and of TCGA are classified better than by hybrid"
    " transformers, with a pretrained ResNet.",
    source="the paper's experiments",
    reason="needs pathology slides and pretrained weights",
  ),
)
