"""DaViT: windows see detail, channels see the whole map; together they see both.

Claimed (arXiv:2204.03645): attention between channels complements attention in windows
at a cost linear in the tokens; either alone is worse.

The task is what a mark far away says, among clutter (`tasks.far_mark`): which of
four signs counts is told by a flag in the same cell of 4 x 4 tokens, who asks is in
another. 8 x 8 tokens, windows of 4 x 4, two blocks (windows, channels), 24 wide, 300
steps at 5e-3 (at 1e-2 attention between channels may stay at chance). The blocks have
no convolutions. Softmax attention sees no cells and learns to answer with the most
frequent sign; it is also asked without clutter.

  python -m experiments.claims davit

It takes two minutes.
"""

from collections.abc import Iterator

import jax
from flax import nnx

from attnjax.variants.local import davit
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.tasks import far_mark
from experiments.claims.tasks.far_mark import Task
from experiments.claims.vision import jitted, mechanism, seconds

WIDTH, HEADS, SIDES = 64, 4, (32, 64)
CLUTTER, RATE = Task(clutter=True), 5e-3


def claims() -> Iterator[Bound]:
  short, long = (_time(side) for side in SIDES)
  yield at_most(
    "time of channel attention, 32^2 to 64^2 tokens: times", long / short, 6
  )
  both, windows, channels = (
    _points("davit", CLUTTER, heads=HEADS, window=4, kind=kind)
    for kind in ("alternate", "window", "channel")
  )
  yield reported("per cent right, windows and channels in turn", both)
  yield at_least("points above windows alone", both - windows, 25)
  yield at_least("points above channels alone", both - channels, 8)
  softmax = (
    _points("dot_product", task, heads=HEADS, rope_theta=0.0)
    for task in (CLUTTER, Task())
  )
  yield reported("per cent right, softmax attention", next(softmax))
  yield at_least("the same without clutter", next(softmax), 95)


def _points(slug: str, task: Task, **options) -> float:
  """Trains a net; returns per cent of right answers.

  The reference takes the least time at 64 tokens, most of which is compilation.
  """
  build = mechanism(slug, **options, impl="reference")
  return far_mark.accuracy(far_mark.train([build], task, rate=RATE), task)


def _time(side: int) -> float:
  """Returns the seconds of a layer for one image."""
  layer = davit.Layer(
    WIDTH, form="image", heads=HEADS, kind="channel", rngs=nnx.Rngs(0)
  )
  x = jax.random.normal(jax.random.key(0), (1, side, side, WIDTH))
  return seconds(jitted(lambda layer, x: layer(x), layer, x), 5)
