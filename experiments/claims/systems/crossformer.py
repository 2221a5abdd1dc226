"""CrossFormer: near and far groups in turn see what near groups alone cannot.

Claimed (arXiv:2108.00154): alternating short and long distances is as good as softmax
attention of all tokens; a position bias that a network predicts serves other sizes of
images, with no new parameter.

The task is what a mark far away says (`tasks.far_mark`): 8 x 8 tokens, groups of
4 x 4, two blocks, 24 wide, 300 steps. Those asked are at least four tokens away, where
no group of neighbours reaches. The last net has the bias and no positions, is trained
on images of 16 x 16 with clutter, and asked about images of 24 x 24 too, where the
interval is 3 instead of 2.

  python -m experiments.claims crossformer

It takes a minute and a half.
"""

from collections.abc import Iterator

from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.tasks import far_mark
from experiments.claims.tasks.far_mark import Task
from experiments.claims.vision import mechanism

# The reference: at 64 tokens it takes the least time, most of which is compilation.
GROUPS = {"heads": 4, "window": 4, "impl": "reference"}
SMALL, LARGE = (Task(side=side, clutter=True) for side in (far_mark.SIDE, 24))


def claims() -> Iterator[Bound]:
  points = _points(mechanism("crossformer", **GROUPS, dynamic_bias=False))
  yield at_least("per cent right, short and long in turn", points, 95)
  short = mechanism("crossformer", **GROUPS, dynamic_bias=False, kind="short")
  yield at_most("per cent right, short alone", _points(short), 60)
  softmax = mechanism("dot_product", heads=4, rope_theta=0.0, impl="reference")
  yield at_least("per cent right, softmax attention", _points(softmax), 95)
  # D / 16 is 1 here, and a norm over one number is constant.
  biased = mechanism("crossformer", **GROUPS, bias_width=8)
  model = far_mark.train([biased], SMALL, positions=False)
  small, large = (far_mark.accuracy(model, task) for task in (SMALL, LARGE))
  yield reported("per cent right with the bias as the only position", small)
  yield at_least("the same on images of 24 x 24, not trained on", large, 80)


def _points(build) -> float:
  return far_mark.accuracy(far_mark.train([build]))
