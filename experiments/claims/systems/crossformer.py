"""CrossFormer: near and far groups in turn, and patches of several sizes.

Claimed (arXiv:2108.00154, abstract and section 3): attention within near groups and
within far ones in turn sees all at less cost; embeddings that mix patches of several
sizes around one centre are better than those of one size.

Relation: the data set `relation` in patches of 4 x 4 pixels (`claims.tasks.relation`),
groups of 2 x 2 tokens, two blocks (short, long) 24 wide, as the catalogue has it with
more and smaller tokens; within 2 points of softmax attention of all tokens. Short
groups alone hold one window of 2 x 2 tokens and must miss the rule.

Shapes: the data set `shapes`, four shapes of three colours among clutter, with the
authors' four patch sizes 4, 8, 16, 32 of stride 4, against patches of 4 alone
with as many channels; the rest of the network is as it was, groups of 4 x 4 on 8 x
8 tokens, one short and one long block 32 wide, 200 steps of 16. "Without it" leaves the
patches of 4 in their half of the channels and makes the others zero. The paper gains
about a point of accuracy by its embedding (quoted from memory); the margin is half a
point.

  python -m experiments.claims crossformer

About 200 s of one core.
"""

import functools

import jax.numpy as jnp
from flax import nnx

from attnjax.core.positions import sinusoids
from attnjax.variants.local.crossformer.embedding import CrossScale
from experiments import small
from experiments.claims import rows
from experiments.claims.claim import NotTestable, Quality
from experiments.claims.tasks import relation

SLUG, HEADS = "crossformer", {"heads": 4}
DENSE = ("dot_product", {"heads": 4, "rope_theta": 0.0})
# D / 16, the bias network's width, is 1 here: a norm over one number is constant.
GROUPS = HEADS | {"window": 2, "bias_width": 8}
STRIDE, WIDTH, SIZES = 4, 32, (4, 8, 16, 32)
SHAPES, TASK = small.of_task("shapes", train=4096, held_out=1024)


class _Stem(nnx.Module):
  """Patches of these sizes, and positions; those beyond the first can be zero."""

  def __init__(self, sizes, silent=False, *, rngs: nnx.Rngs):
    self.embed = CrossScale(TASK.channels, WIDTH, sizes, rngs=rngs)
    self.silent = silent

  def __call__(self, images):
    if self.silent:
      for part in self.embed.convolutions[1:]:
        part.kernel = nnx.Param(jnp.zeros_like(part.kernel[...]))
        part.bias = nnx.Param(jnp.zeros_like(part.bias[...]))
    x = self.embed(images)
    return x + sinusoids(x.shape[1:3], WIDTH)


def _network(sizes, silent, key):
  groups = HEADS | {"window": 4, "bias_width": 8}
  made = {"channels": TASK.channels, "classes": TASK.classes, "patch": STRIDE}
  model = small.vision([(SLUG, groups)], **made, dim=WIDTH, depth=2)(key)
  model.stem = _Stem(sizes, silent, rngs=nnx.Rngs(key))
  return model


def _shapes(name, kind, sizes, silent=False):
  build = functools.partial(_network, sizes, silent)
  return rows.trained(name, kind, build, SHAPES, small.Recipe(steps=200, batch=16))


CLAIMS = (
  Quality(
    sentence="Short and long groups in turn are as accurate as softmax attention.",
    source="abstract and section 3; the task is the catalogue's",
    unit="share of images",
    better="more",
    rows=(
      relation.trained("short and long in turn", "mechanism", [(SLUG, GROUPS)]),
      relation.without("without it", [(SLUG, GROUPS)]),
      relation.trained("softmax attention of all tokens", "baseline", [DENSE]),
      relation.trained("short alone", "broken", [(SLUG, GROUPS | {"kind": "short"})]),
    ),
    against="softmax attention of all tokens",
    margin=-0.02,
  ),
  Quality(
    sentence="Patches of four sizes are more accurate than patches of the smallest.",
    source="abstract and section 4; the task is the suite's",
    unit="share of images",
    better="more",
    rows=(
      _shapes("patches of 4, 8, 16 and 32", "mechanism", SIZES),
      _shapes("without it", "without", SIZES, silent=True),
      _shapes("patches of 4 alone", "baseline", SIZES[:1]),
      rows.untrained("untrained", functools.partial(_network, SIZES, False), SHAPES),
    ),
    against="patches of 4 alone",
    margin=0.005,
  ),
  NotTestable(
    sentence="CrossFormer is better than other networks at detection and segmentation.",
    source="abstract",
    reason="needs COCO and ADE20K, and weeks of accelerators",
  ),
)
