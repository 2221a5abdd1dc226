"""DaViT: windows see detail, channels see the whole map; together they see both.

Claimed (arXiv:2204.03645): attention between channels complements attention in windows
at a cost linear in the tokens; either alone is worse.

The task is whether two marks far apart are alike (`experiments.relation`): 8 x 8
tokens, windows of 4 x 4, three blocks (windows, channels, windows), 24 wide, 500 steps.
The blocks have no convolutions.

  python -m experiments.claims davit

Measured: only the time holds. Within these 500 steps all stay at chance, softmax
attention too: the task needs longer training, or to be easier, to tell them apart.
"""

from collections.abc import Iterator

import jax
from flax import nnx

from attnjax.variants.local import davit
from experiments import relation
from experiments.evidence import Claim, at_least, at_most, reported
from experiments.vision_claims import jitted, mechanism, seconds

WIDTH, HEADS, SIDES = 64, 4, (32, 64)


def claims() -> Iterator[Claim]:
  short, long = (_time(side) for side in SIDES)
  yield at_most(
    "time of channel attention, 32^2 to 64^2 tokens: times", long / short, 6
  )
  both, windows, channels = (
    _points("davit", heads=HEADS, window=4, kind=kind)
    for kind in ("alternate", "window", "channel")
  )
  yield reported("per cent right, windows and channels in turn", both)
  yield at_least("points above windows alone", both - windows, 25)
  yield at_least("points above channels alone", both - channels, 8)
  points = _points("dot_product", heads=HEADS, rope_theta=0.0)
  yield reported("per cent right, softmax attention", points)


def _points(slug: str, **options) -> float:
  return relation.accuracy(relation.train([mechanism(slug, **options)]))


def _time(side: int) -> float:
  """Seconds of a layer's result for one image."""
  layer = davit.Layer(WIDTH, heads=HEADS, kind="channel", rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, side, side, WIDTH))
  return seconds(jitted(lambda layer, x: layer(x), layer, x), 5)
