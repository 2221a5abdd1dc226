"""CrossFormer: near and far groups in turn see what near groups alone cannot.

Claimed (arXiv:2108.00154): alternating short and long distances is as good as softmax
attention of all tokens; a position bias that a network predicts serves other sizes of
images, with no new parameter.

The task is whether two marks far apart are alike (`experiments.relation`): 8 x 8
tokens, groups of 4 x 4, three blocks, 24 wide, 500 steps. The first three have learned
positions and no bias. The last has the bias alone, is trained on images of 16 x 16,
and asked about images of 24 x 24 too, where the interval is 3 instead of 2.

  python -m experiments.claims crossformer

Not measured yet: thresholds, sizes and times were set before any whole run.
"""

from collections.abc import Iterator

from experiments import relation
from experiments.evidence import Claim, at_least, at_most, reported
from experiments.vision_claims import mechanism

GROUP, LARGE = 4, 24
PLAIN = {"heads": 4, "group": GROUP, "dynamic_bias": False}


def claims() -> Iterator[Claim]:
  points = _points(mechanism("crossformer", **PLAIN))
  yield at_least("per cent right, short and long in turn", points, 95)
  points = _points(mechanism("crossformer", **PLAIN, kind="short"))
  yield at_most("per cent right, short alone", points, 60)
  points = _points(mechanism("dot_product", heads=4, rope_theta=0.0))
  yield reported("per cent right, softmax attention", points)
  # D / 16 is 1 here, and a norm over one number is constant.
  biased = mechanism("crossformer", heads=4, group=GROUP, bias_width=8)
  model = relation.train([biased], positions=False)
  small, large = (relation.accuracy(model, side) for side in (relation.SIDE, LARGE))
  yield reported("per cent right with the bias as the only position", small)
  yield at_least("the same on images of 24 x 24, not trained on", large, 80)


def _points(build) -> float:
  return relation.accuracy(relation.train([build]))
