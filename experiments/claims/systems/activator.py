"""Activator: gating units of single patches classify as well as attention does.

Claimed (arXiv:2405.15953, abstract and the tables of later versions): with gated linear
units in place of attention a network is more accurate on small images than a Vision
Transformer trained alike, 73.2 % against 65.7 % on CIFAR-10 and 46.1 % against 34.9 %
on CIFAR-100, also where the MLPs are left out, and costs less.

Images: `digits` of the suite, 8 x 8 in patches of 2 x 2, the published networks with
four blocks 64 wide beside a Vision Transformer of the same width, depth and MLPs, 500
steps of 32. Both have their own kind of positions: none, and sinusoids. Training is
without dropout, which the small hosts lack, and without decay. Where two patches change
places the logits of Activator stay, a test has that; a digit may still be told by what
patches it has. The margin of the first claim is half of what CIFAR-10 has; that of the
others is the catalogue's, 2 points.

Time: CPU seconds of the published networks, 256 wide with four blocks, on 8 images of
16 to 64 patches, as in the paper. There four fifths of a Transformer's time is the
catalogue's number. With MLPs a block has more products than the Transformer's, five
D x F instead of two and four D x D: it is the row that must miss the rule.

  python -m experiments.claims activator

About 200 s of one core.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.variants.mixers import activator
from experiments import small
from experiments.claims import timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.claims.tasks import digits

WIDTH, DEPTH, BATCH = 64, 4, 8
RECIPE = small.Recipe(steps=500, decay=0.0)
SDPA = ("dot_product", {"heads": 4, "rope_theta": 0.0})
CIFAR = {"channels": 3, "classes": 10, "dim": 256, "depth": 4}


def network(size, silent=False):
  """Returns what makes a published network, small, from a random key."""
  options = activator.SIZES[size] | {"dims": (WIDTH,), "depths": (DEPTH,)}

  def build(key):
    rngs = nnx.Rngs(key)
    model = activator.Model(1, digits.CLASSES, **options, patch=digits.PATCH, rngs=rngs)
    if silent:
      made = small.without("activator", ("image",))
      for block in model.stages.stages[0].sequence:
        block.unit = made(WIDTH, layers=DEPTH, rngs=rngs)
    return model

  return build


def transformer():
  """Returns what makes a Vision Transformer of the same sizes."""
  sizes = {"dim": WIDTH, "depth": DEPTH, "patch": digits.PATCH}
  return small.vision([SDPA], channels=1, classes=digits.CLASSES, **sizes)


def _row(name, kind, build, recipe=RECIPE):
  return digits.trained(name, kind, build, recipe)


def _rows(size):
  return (
    _row("gating units", "mechanism", network(size)),
    _row("without them", "without", network(size, silent=True)),
    SOFTMAX,
    _row("untrained", "broken", network(size), small.Recipe(steps=0)),
  )


SOFTMAX = _row("Vision Transformer", "baseline", transformer())
WITH_MLP, ONLY_GLU = _rows("with_mlp"), _rows("only_glu")


def _quality(sentence, rows, margin, **more):
  return Quality(
    sentence=sentence,
    source="abstract, and the table of CIFAR in later versions; here digits",
    unit="share of images",
    better="more",
    rows=rows,
    against="Vision Transformer",
    margin=margin,
    **more,
  )


def _seconds(build, tokens):
  side = 4 * round(tokens**0.5)
  images = jnp.cos(jnp.arange(BATCH * side * side * 3.0))
  model = build(jax.random.key(0))
  images = images.reshape(BATCH, side, side, 3)
  return timing.seconds(lambda model, x: model(x), model, images)


def _published(size, key):
  return activator.Model(3, 10, **activator.SIZES[size], rngs=nnx.Rngs(key))


def _time(name, kind, build):
  return Sized(name, kind, functools.partial(_seconds, build))


CLAIMS = (
  _quality(
    "Gating units are more accurate than softmax attention.",
    WITH_MLP,
    margin=0.037,
    paper=0.075,
  ),
  _quality(
    "Gating units are within 2 points of softmax attention.", WITH_MLP, margin=-0.02
  ),
  _quality(
    "Gating units without MLPs are within 2 points of softmax attention with them.",
    ONLY_GLU,
    margin=-0.02,
  ),
  Cost(
    sentence="Without MLPs gating units take 0.8 of a Vision Transformer's time.",
    source="abstract; the factor is the catalogue's",
    unit="seconds",
    rows=(
      _time("gating units", "mechanism", functools.partial(_published, "only_glu")),
      _time("Vision Transformer", "rival", small.vision([SDPA], **CIFAR)),
      _time("with MLPs", "broken", functools.partial(_published, "with_mlp")),
    ),
    sizes=(16, 36, 49, 64),
    against="Vision Transformer",
    ratio=1.25,
  ),
  NotTestable(
    sentence="Activator is also more accurate than MLP-Mixer, on CIFAR-10 and -100.",
    source="the table of later versions",
    reason="the data sets are not here, nor is MLP-Mixer among the mechanisms",
  ),
)
