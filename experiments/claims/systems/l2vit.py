"""L2ViT: linear attention is too smooth, and its convolutions concentrate it again.

Claimed (arXiv:2501.16182, abstract): linear attention spreads over all tokens where
softmax attention is sharp; the local concentration module brings back what that costs;
the time is linear in the tokens.

The task is what the catalogue first asked, the data set `texture_shape`: a local
texture, and whether two shapes far apart match, one class of four. 20 x 20 pixels in
patches of 5 x 5, 4 x 4 tokens, two blocks 32 wide, 450 steps of 32, in a trial enough
for softmax attention alone at 3e-3; the layer has its published clamp, convolution of
positions and concentration. Convolutions of 7 x 7 see
all of 4 x 4 tokens, so that the row without attention tells whether they need it. The
margins are the catalogue's: 2 points above linear attention without concentration, and
within 1 point of softmax attention. A lookup that was asked in its place before is
solved by the convolutions alone.

Time: CPU seconds of the attention, two heads of 32, at 1024 to 9216 tokens. Linear is
an exponent of 1; 1.2 leaves room for what does not grow. The broken row is the
definition, which holds all weights.

  python -m experiments.claims l2vit

About 200 s of one core.
"""

import functools

import jax

from attnjax.variants.linear import l2vit
from attnjax.variants.softmax import dot_product
from experiments import small
from experiments.claims import rows, timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized

SIDE, PATCH = 20, 5
PROBLEM, TASK = small.of_task("texture_shape", train=8192, held_out=512, side=SIDE)
SLUG, HEADS = "l2vit", {"heads": 4}
DENSE = ("dot_product", HEADS | {"rope_theta": 0.0})


def build(slug):
  """Returns what makes the network from a random key."""
  sizes = {"channels": TASK.channels, "classes": TASK.classes, "patch": PATCH}
  return small.vision([slug], **sizes)


def _shapes(name, kind, slug):
  return rows.trained(name, kind, build(slug), PROBLEM, small.Recipe(steps=450))


SHARED = (
  _shapes("linear attention, concentrated", "mechanism", (SLUG, HEADS)),
  _shapes("without it", "without", small.without((SLUG, HEADS), ("image",))),
  _shapes("softmax attention", "baseline", DENSE),
  _shapes("linear attention", "rival", (SLUG, HEADS | {"local_kernel": 0})),
  rows.untrained("untrained", build((SLUG, HEADS)), PROBLEM),
)


def _quality(sentence, against, margin):
  source, unit = "abstract; the task is the catalogue's", "share of images"
  return Quality(sentence, source, unit, "more", SHARED, against, margin)


def _time(name, kind, attend):
  return Sized(name, kind, functools.partial(_seconds, attend))


def _seconds(attend, tokens):
  shape = (3, 1, tokens, 2, 32)
  return timing.seconds(attend, *jax.random.normal(jax.random.key(0), shape))


CLAIMS = (
  _quality(
    "Concentration makes linear attention more accurate.", "linear attention", 0.02
  ),
  _quality(
    "Concentrated linear attention is as accurate as softmax attention.",
    "softmax attention",
    -0.01,
  ),
  Cost(
    sentence="The time of linear attention is linear in the tokens.",
    source="abstract",
    unit="seconds",
    rows=(
      _time("linear attention", "mechanism", l2vit.attend),
      _time("softmax attention", "rival", dot_product.attend),
      _time("its definition", "broken", l2vit.reference),
    ),
    sizes=(1024, 2304, 4096, 9216),
    exponent=1.2,
  ),
  NotTestable(
    sentence="L2ViT reaches 84.4 % on ImageNet-1K, and 87.0 % after ImageNet-22K.",
    source="abstract",
    reason="needs ImageNet and weeks of accelerators",
  ),
)
