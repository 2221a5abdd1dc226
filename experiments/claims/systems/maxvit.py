"""MaxViT: windows see what is near, grids see what is far, and both are linear.

Claimed (arXiv:2204.01697, abstract and section 3): attention in windows and over a
dilated grid in turn sees everything, at a cost linear in the pixels.

Quality: every token of 8 x 8 tells two signs, one near and one far
(`claims.tasks.near_far`), so that both halves of the mechanism are asked: a grid has
every second column, so that no grid holds a near pair, and no window holds two tokens
half a map apart. Groups of 4 x 4, two blocks 32 wide, 250 steps of 16. The paper gives
no number against softmax attention of all tokens, which its cost excludes: the claim is
that nothing is lost, within 2 points. Windows alone, which the paper's ablation
compares with, cannot see what is far: they are the broken variant that misses the rule.
The catalogue's task, a match of two corners and a texture for one label an image, is
the data set `texture_shape`: in patches of 4 x 4 pixels its texture lies within one
token and would ask nothing of the windows.

Changed after measuring: quality is asked again beside it. Softmax attention did not
learn the task with the host's positions in these steps (0.29 of the tokens, where one
in four is chance), so that windows alone met the rule and the first says nothing. The
second has 4 x 4 tokens, groups of 2 x 2 and 400 steps of 32, and softmax attention with
MaxViT's relative positions, one window that holds the map; in a trial it alone was
right after 200 steps.

Cost: CPU seconds of one layer, 64 wide, on images of 256 to 4096 tokens, groups of
8 x 8. Linear is an exponent of 1; 1.3 leaves room for what does not grow. The broken
row has one group that holds the map.

  python -m experiments.claims maxvit

About 300 s of one core.
"""

from experiments import small
from experiments.claims import costs
from experiments.claims.claim import Cost, NotTestable, Quality
from experiments.claims.tasks import near_far

SLUG, HEADS = "maxvit", 4
GROUPS = {"heads": HEADS, "window": 4}
DENSE = ("dot_product", {"heads": HEADS, "rope_theta": 0.0})
WIDTH, LARGE = 64, {"heads": HEADS, "window": 8}


FEW, RECIPE = {"heads": HEADS, "window": 2}, small.Recipe(steps=400)


def _small(name, row, **options):
  slugs = [(SLUG, FEW | options)]
  return near_far.trained(name, row, slugs, side=4, recipe=RECIPE)


def _whole(tokens):
  return {"heads": HEADS, "window": round(tokens**0.5), "kind": "window"}


CLAIMS = (
  Quality(
    sentence=(
      "Windows and grids in turn are as accurate as softmax attention of all tokens."
    ),
    source="abstract and section 3; the task is ours",
    unit="share of tokens",
    better="more",
    rows=(
      near_far.trained("windows and grids in turn", "mechanism", [(SLUG, GROUPS)]),
      near_far.without("without it", (SLUG, GROUPS)),
      near_far.trained("softmax attention of all tokens", "baseline", [DENSE]),
      near_far.trained(
        "windows alone", "broken", [(SLUG, GROUPS | {"kind": "window"})]
      ),
      near_far.trained(
        "grids alone, which cannot see what is near",
        "unable",
        [(SLUG, GROUPS | {"kind": "grid"})],
      ),
    ),
    against="softmax attention of all tokens",
    margin=-0.02,
  ),
  Cost(
    sentence="The time of attention in windows and grids is linear in the tokens.",
    source="abstract and section 3",
    unit="seconds",
    rows=(
      costs.row("grids", "mechanism", (SLUG, LARGE | {"kind": "grid"}), WIDTH),
      costs.row("softmax attention of all tokens", "rival", DENSE, WIDTH),
      costs.row("one window of all tokens", "broken", (SLUG, _whole), WIDTH),
    ),
    sizes=(256, 1024, 2304, 4096),
    exponent=1.3,
  ),
  Quality(
    sentence="Windows and grids are as accurate as one window of all tokens.",
    source="abstract and section 3; the task is ours",
    unit="share of tokens",
    better="more",
    rows=(
      _small("windows and grids in turn", "mechanism"),
      near_far.without("without it", (SLUG, FEW), side=4, recipe=RECIPE),
      _small("one window of all tokens", "baseline", kind="window", window=4),
      _small("windows alone", "broken", kind="window"),
      _small("grids alone, which cannot see what is near", "unable", kind="grid"),
    ),
    against="one window of all tokens",
    margin=-0.02,
  ),
  NotTestable(
    sentence="MaxViT reaches 86.5 % on ImageNet-1K, and leads in detection.",
    source="abstract",
    reason="needs ImageNet and COCO, and weeks of accelerators",
  ),
)
