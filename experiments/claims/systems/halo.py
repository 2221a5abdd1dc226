"""Halo attention: blocks with surroundings keep what blocks lose at their edges.

Claimed (arXiv:2103.12731, abstract and section 3): letting the queries of a block share
a neighbourhood around it costs little and loses nothing, while windows without halo do
not see across their edges; networks of it are more accurate than convolutions.

The task: a red and a green dot somewhere on 8 x 8 pixels, each pixel a token; which of
the 8 neighbours of the first is the second? The answer is read at the first dot. One
block 32 wide, 200 steps of 16: blocks of 2 and a halo of 1, whose windows of 4 x 4 hold
all that is asked, against windows of 4 x 4 without halo, which see as many keys but not
across their edges, and against a convolution of 3 x 3 with as many parameters, which
sees it all. The catalogue asks for offsets up to 3 on larger images, in which a
convolution needs several layers. It wants 10 points above windows; the margin is half
of it. The baseline is one block that holds the image, with its relative positions. No
data set of the suite asks for a place relative to another.

  python -m experiments.claims halo

About 150 s of one core.
"""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import data, small
from experiments.claims import rows
from experiments.claims.claim import NotTestable, Quality
from experiments.small import problem as problems

SIDE, HEADS, NOISE, WIDTH = 8, 8, 0.1, 32
NARROW = 13  # channels of the convolution
TRAIN, HELD_OUT = 8192, 1024
OFFSETS = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])


@functools.cache
def examples(seed, split):
  """Draws images (B, 8, 8, 2), a dot in each channel, and the offset's number."""
  rng = np.random.default_rng([seed, data.SPLITS.index(split)])
  count = TRAIN if split == "train" else HELD_OUT
  label = rng.integers(len(OFFSETS), size=count)
  first = rng.integers(1, SIDE - 1, size=(count, 2))
  image = NOISE * rng.standard_normal((count, SIDE, SIDE, 2))
  for channel, (row, column) in enumerate((first.T, (first + OFFSETS[label]).T)):
    image[np.arange(count), row, column, channel] += 3
  return {"image": image.astype(np.float32), "label": label.astype(np.int32)}


PROBLEM = small.Problem(examples, problems.class_loss, problems.class_score)


class _Network(nnx.Module):
  """A classifier that answers at the first dot's token."""

  def __init__(self, slug, *, key):
    sizes = {"channels": 2, "classes": len(OFFSETS), "patch": 1}
    self.inner = small.vision([slug], **sizes, dim=WIDTH, depth=1)(key)

  def __call__(self, images):
    x = self.inner.features(images)[-1]
    first = images[..., 0].reshape(len(images), -1).argmax(axis=-1)
    tokens = x.reshape(len(x), -1, x.shape[-1])
    return self.inner.head(tokens[jnp.arange(len(x)), first])


class _Convolution(nnx.Module):
  """A convolution of 3 x 3 pixels to few channels, and a projection of these to D."""

  form = "image"

  def __init__(self, dim: int, *, layers: int, rngs: nnx.Rngs):
    del layers
    self.convolution = nnx.Conv(dim, NARROW, (3, 3), rngs=rngs)
    self.out = nnx.Linear(NARROW, dim, rngs=rngs)

  def __call__(self, x, **context):
    del context
    return self.out(self.convolution(x))


def _layer(block, halo):
  options = {"heads": HEADS, "block": block, "halo": halo, "output": True}
  return "halo", options


def _build(slug):
  return lambda key: _Network(slug, key=key)


def _dots(name, kind, slug):
  recipe = small.Recipe(steps=200, batch=16)
  return rows.trained(name, kind, _build(slug), PROBLEM, recipe)


SHARED = (
  _dots("blocks of 2 with a halo of 1", "mechanism", _layer(2, 1)),
  _dots("without it", "without", small.without(_layer(2, 1), ("image",))),
  _dots("one block of all tokens", "baseline", _layer(SIDE, 0)),
  _dots("windows of 4", "rival", _layer(4, 0)),
  _dots("convolution of 3 x 3", "rival", _Convolution),
  rows.untrained("untrained", _build(_layer(2, 1)), PROBLEM),
)


def _quality(sentence, against, margin):
  source = "abstract and section 3; the task is ours"
  unit = "share of images"
  return Quality(sentence, source, unit, "more", SHARED, against, margin)


CLAIMS = (
  _quality(
    "Blocks with a halo are more accurate than windows of as many keys.",
    "windows of 4",
    0.05,
  ),
  _quality(
    "Halo attention is more accurate than a convolution with as many parameters.",
    "convolution of 3 x 3",
    0.0,
  ),
  NotTestable(
    sentence="HaloNets are ahead on ImageNet among networks of few parameters.",
    source="abstract",
    reason="needs ImageNet and weeks of accelerators",
  ),
)
