"""HiLo: heads on pooled windows see far, heads in windows see detail, both are fast.

Claimed (arXiv:2205.13213, abstract and section 3): some heads for high frequencies in
small windows and the others for low ones on pooled windows are as accurate as softmax
attention of all tokens, and faster.

Relation: the data set `relation` in patches of 4 x 4 pixels (`claims.tasks.relation`),
windows of 2 x 2 tokens, half of four heads low, as the catalogue has it with more and
smaller tokens; within 2 points of softmax attention. High heads alone see one window
and are the variant that must miss the rule.

Time: CPU seconds of one layer, 96 wide with 3 heads, windows of 2 x 2, alpha 0.9, on
14 x 14 to 56 x 56 tokens: at the last softmax attention takes 1.5 times as much. With
windows of one token all heads are low and see all tokens: the broken row.

  python -m experiments.claims hilo

About 120 s of one core.
"""

from experiments.claims import costs
from experiments.claims.claim import Cost, NotTestable, Quality
from experiments.claims.tasks import relation

SLUG, HEADS, WIDE = "hilo", {"heads": 4}, {"heads": 3, "alpha": 0.9}
DENSE = ("dot_product", {"heads": 4, "rope_theta": 0.0})
WHOLE = ("dot_product", {"heads": 3, "rope_theta": 0.0})


def _layer(window, alpha):
  return SLUG, HEADS | {"window": window, "alpha": alpha}


CLAIMS = (
  Quality(
    sentence="Half of the heads low are as accurate as softmax attention.",
    source="abstract and section 3; the task is the catalogue's",
    unit="share of images",
    better="more",
    rows=(
      relation.trained("half of the heads low", "mechanism", [_layer(2, 0.5)]),
      relation.without("without it", [_layer(2, 0.5)]),
      relation.trained("softmax attention of all tokens", "baseline", [DENSE]),
      relation.trained("low heads alone", "rival", [_layer(2, 1.0)]),
      relation.trained("high heads alone", "broken", [_layer(2, 0.0)]),
    ),
    against="softmax attention of all tokens",
    margin=-0.02,
  ),
  Cost(
    sentence="HiLo is 1.5 times as fast as softmax attention on 56 x 56 tokens.",
    source="abstract; the factor is the catalogue's",
    unit="seconds",
    rows=(
      costs.row("heads high and low", "mechanism", (SLUG, WIDE | {"window": 2}), 96),
      costs.row("softmax attention of all tokens", "rival", WHOLE, 96),
      costs.row("windows of one token", "broken", (SLUG, WIDE | {"window": 1}), 96),
    ),
    sizes=(196, 784, 1764, 3136),
    against="softmax attention of all tokens",
    ratio=1.5,
  ),
  NotTestable(
    sentence="High and low heads together are more accurate than low heads alone.",
    source="section 3, ablation",
    reason=(
      "needs details finer than a window; softmax attention with the host's positions,"
      " the baseline, did not learn such a task (`claims.tasks.near_far`) in 400 steps"
    ),
  ),
  NotTestable(
    sentence="LITv2 is faster and more accurate than other networks on ImageNet.",
    source="abstract",
    reason="needs ImageNet and weeks of accelerators",
  ),
)
