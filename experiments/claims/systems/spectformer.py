"""SpectFormer: filters first and attention after are better than either alone.

Claimed (arXiv:2304.06446, abstract and section 4): spectral layers catch what is
periodic and fine, attention what tokens have to do with each other; the first few
blocks with filters and the others with attention are 2 % more accurate on ImageNet than
filters alone (GFNet-H), and more so than a transformer; the other way round is worse.

Images: a wave all over the image and a match of two marks, one class of four
(`claims.tasks.wave_relation`, with what was tried before the registration). The vanilla
network, six blocks 32 wide on 8 x 8 tokens, 600 steps of 32; the catalogue has 64
channels, images of 32 x 32 and 1,500 steps, which take hours here. Two blocks have
filters (alpha = 2), none (a Vision Transformer) or all (GFNet). The margin of the first
two claims is half of the paper's 2 points; the next two are the catalogue's: within
half a point of either. Attention is the baseline; only untrained networks were seen to
miss the rules, and only attention alone was trained before the registration.

Time: CPU seconds of one filter, 16 wide, on maps of 16 x 16 to 48 x 48. T log T is an
exponent of 1.15 there; 1.3 leaves room for what the processor's caches do. The broken
row is the definition, which sums over all pairs of tokens; the rival is attention.

  python -m experiments.claims spectformer

About 600 s of two cores.
"""

import functools

from experiments.claims import costs
from experiments.claims.claim import Cost, NotTestable, Quality
from experiments.claims.tasks import wave_relation as task

SPECTRAL, ATTENTION = "spectral", "attention"
MIXED = (SPECTRAL,) * 2 + (ATTENTION,) * 4
ROWS = (
  task.trained("filters, then attention", "mechanism", *MIXED),
  task.trained("without the filters", "without", *MIXED, silent=True),
  task.trained("attention alone", "baseline", *(ATTENTION,) * 6),
  task.trained("filters alone", "rival", *(SPECTRAL,) * 6),
  task.trained("attention, then filters", "rival", *MIXED[::-1]),
  task.untrained("untrained", *MIXED),
)
WIDTH = 16
DENSE = ("dot_product", {"heads": 4, "rope_theta": 0.0})


def _quality(sentence, source, against, margin, **more):
  return Quality(
    sentence=sentence,
    source=source,
    unit="share of images",
    better="more",
    rows=ROWS,
    against=against,
    margin=margin,
    **more,
  )


def _filter(**options):
  return "spectformer", lambda T: options | {"grid": round(T**0.5)}


_same = functools.partial(_quality, source="the catalogue's", margin=-0.005)
CLAIMS = (
  _quality(
    "Filters, then attention are more accurate than filters alone.",
    source="abstract, against GFNet-H on ImageNet; the task is the catalogue's",
    against="filters alone",
    margin=0.01,
    paper=0.02,
  ),
  _quality(
    "Filters, then attention are more accurate than attention alone.",
    source="abstract, against LiT on ImageNet; the task is the catalogue's",
    against="attention alone",
    margin=0.01,
    paper=0.02,
  ),
  _same(
    "Filters, then attention are within half a point of filters alone.",
    against="filters alone",
  ),
  _same(
    "Filters, then attention are within half a point of attention alone.",
    against="attention alone",
  ),
  _quality(
    "Filters before attention are more accurate than attention before filters.",
    source="section 4, on the order of the blocks",
    against="attention, then filters",
    margin=0.0,
  ),
  Cost(
    sentence="The time of a filter is nearly linear in the tokens.",
    source="abstract of GFNet, arXiv:2107.00645, whose filter it is: log-linear",
    unit="seconds",
    rows=(
      costs.row("filter", "mechanism", _filter(), WIDTH),
      costs.row("softmax attention", "rival", DENSE, WIDTH),
      costs.row("its definition", "broken", _filter(impl="reference"), WIDTH),
    ),
    sizes=(256, 576, 1024, 2304),
    exponent=1.3,
  ),
  NotTestable(
    sentence="SpectFormer-S reaches 84.25 % on ImageNet-1K, and SpectFormer-L 85.7 %.",
    source="abstract",
    reason="needs ImageNet and weeks of accelerators",
  ),
  NotTestable(
    sentence="Trained on ImageNet, it is as accurate as others on smaller sets, and in"
    " detection on COCO.",
    source="section 4",
    reason="needs the data sets, and networks trained on ImageNet",
  ),
)
