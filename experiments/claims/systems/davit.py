"""DaViT: windows see detail, channels see the whole map; together they see both.

Claimed (arXiv:2204.03645, abstract and section 3): attention between channels
complements attention in windows at a cost linear in the tokens; either alone is worse.

Relation: the data set `relation` in patches of 4 x 4 pixels (`claims.tasks.relation`),
windows of 2 x 2 tokens, two blocks (windows, then channels) 24 wide, as the catalogue
has it with more and smaller tokens; the layers have no convolutions. The catalogue asks
for 8 points above channels alone, and measured 18; the margin is 4. Windows alone see
one window of 2 x 2 tokens: what the mean of all tokens makes of that is shown.

Time: CPU seconds of one layer of channel attention, 64 wide, on 256 to 4096 tokens.
Linear is an exponent of 1; 1.3 leaves room for what does not grow. The broken row is a
window that holds the map.

  python -m experiments.claims davit

About 150 s of one core.
"""

from experiments.claims import costs
from experiments.claims.claim import Cost, NotTestable, Quality
from experiments.claims.tasks import relation

SLUG, OPTIONS = "davit", {"heads": 4, "window": 2}
DENSE = ("dot_product", {"heads": 4, "rope_theta": 0.0})
CHANNELS = {"heads": 4, "kind": "channel"}


def _whole(tokens):
  return {"heads": 4, "window": round(tokens**0.5), "kind": "window"}


CLAIMS = (
  Quality(
    sentence="Windows and channels in turn are more accurate than channels alone.",
    source="abstract and section 3; the task is the catalogue's",
    unit="share of images",
    better="more",
    rows=(
      relation.trained("windows and channels in turn", "mechanism", [(SLUG, OPTIONS)]),
      relation.without("without it", [(SLUG, OPTIONS)]),
      relation.trained("softmax attention of all tokens", "baseline", [DENSE]),
      relation.trained(
        "channels alone", "rival", [(SLUG, OPTIONS | {"kind": "channel"})]
      ),
      relation.trained(
        "windows alone", "unable", [(SLUG, OPTIONS | {"kind": "window"})]
      ),
      relation.untrained("untrained", [(SLUG, OPTIONS)]),
    ),
    against="channels alone",
    margin=0.04,
  ),
  Cost(
    sentence="The time of attention between channels is linear in the tokens.",
    source="abstract and section 3",
    unit="seconds",
    rows=(
      costs.row("channels", "mechanism", (SLUG, CHANNELS), 64),
      costs.row("softmax attention of all tokens", "rival", DENSE, 64),
      costs.row("one window of all tokens", "broken", (SLUG, _whole), 64),
    ),
    sizes=(256, 1024, 2304, 4096),
    exponent=1.3,
  ),
  NotTestable(
    sentence="DaViT reaches 82.8 to 90.4 % on ImageNet-1K.",
    source="abstract",
    reason="needs ImageNet and weeks of accelerators",
  ),
)
