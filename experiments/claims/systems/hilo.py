"""HiLo: heads on pooled windows see far, heads in windows see detail, both are fast.

Claimed (arXiv:2205.13213): splitting the heads costs no accuracy against softmax
attention of all tokens, which is slower; windows alone see too little.

The task is what a mark far away says (`tasks.far_mark`): 8 x 8 tokens, windows
of 4 x 4, two blocks, 24 wide, 300 steps. That detail finer than the windows needs the
high heads is not shown: low heads alone solve this task.

  python -m experiments.claims hilo
"""

from collections.abc import Iterator

import jax
from flax import nnx

from attnjax.variants.local import hilo
from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.tasks import far_mark
from experiments.claims.vision import jitted, mechanism, seconds

SIDE, WIDTH, HEADS, WINDOW = 56, 96, 3, 4


def claims() -> Iterator[Bound]:
  whole = _time(dot_product.Layer, heads=HEADS, rope_theta=0.0)
  split = _time(hilo.Layer, heads=HEADS, window=2, alpha=0.9)
  yield at_least("times faster than softmax attention, 56 x 56", whole / split, 1.5)
  points = _points("hilo", heads=4, window=WINDOW, alpha=0.5)
  yield at_least("per cent right, half of the heads low", points, 95)
  points = _points("hilo", heads=4, window=WINDOW, alpha=0.0)
  yield at_most("per cent right, windows alone", points, 60)
  points = _points("hilo", heads=4, window=WINDOW, alpha=1.0)
  yield reported("per cent right, low heads alone", points)
  points = _points("dot_product", heads=4, rope_theta=0.0)
  yield reported("per cent right, softmax attention", points)


def _points(slug: str, **options) -> float:
  return far_mark.accuracy(far_mark.train([mechanism(slug, **options)]))


def _time(make, **options) -> float:
  """Returns the seconds of a layer for one image."""
  layer = make(WIDTH, form="image", rngs=nnx.Rngs(0), **options)
  x = jax.random.normal(jax.random.key(0), (1, SIDE, SIDE, WIDTH))
  return seconds(jitted(lambda layer, x: layer(x), layer, x), 5)
