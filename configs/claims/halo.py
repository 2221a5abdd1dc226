"""Halo attention: blocks with surroundings keep what blocks lose at their edges.

Claimed (arXiv:2103.12731, section 3): letting the queries of a block share its
neighbourhood costs little and loses nothing, while windows without halo do not see
across their edges.

The task: a red and a green dot somewhere on 16 x 16 pixels; which of 24 offsets, up to
two rows and columns, has the second from the first? Two blocks, 32 wide; blocks of 4
and a halo of 2 against windows of 4 and of 8 x 8, which see as many keys as the halos.

  python -m experiments.claims halo

Not measured yet: thresholds, sizes and times were set before any whole run.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from experiments.evidence import Claim, at_least, reported
from experiments.vision_claims import accuracy, mechanism, train

SIDE, REACH, STEPS, NOISE = 16, 2, 400, 0.1


def claims() -> Iterator[Claim]:
  points = {
    (block, border): _points(block, border)
    for block, border in ((4, 2), (4, 0), (8, 0))
  }
  yield at_least("per cent right, blocks of 4 with a halo of 2", points[4, 2], 95)
  gained = points[4, 2] - points[4, 0]
  yield at_least("points above windows of 4", gained, 10)
  gained = points[4, 2] - points[8, 0]
  yield at_least("points above windows of 8, with as many keys", gained, 5)
  whole = mechanism("dot_product", heads=4, rope_theta=0.0)
  yield reported("per cent right, softmax attention", _accuracy(whole))


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Images (B, 16, 16, 2) with a dot in each channel, and the number of the offset."""
  keys = jax.random.split(key, 3)
  span = 2 * REACH + 1
  label = jax.random.randint(keys[0], (number,), 0, span * span - 1)
  offset = label + (label >= span * span // 2)  # not the same place
  offset = jnp.stack([offset // span, offset % span], axis=-1) - REACH
  first = jax.random.randint(keys[1], (number, 2), REACH, SIDE - REACH)
  second = first + offset
  dots = [
    jax.nn.one_hot(at[:, 0], SIDE)[:, :, None] * jax.nn.one_hot(at[:, 1], SIDE)[:, None]
    for at in (first, second)
  ]
  image = 3 * jnp.stack(dots, axis=-1)
  return image + NOISE * jax.random.normal(keys[2], image.shape), label


def _points(block: int, border: int) -> float:
  options = {"heads": 4, "block": block, "halo": border, "output": True}
  return _accuracy(mechanism("halo", **options))


def _accuracy(build) -> float:
  model = train(build, draw, channels=2, classes=24, patch=1, steps=STEPS, batch=32)
  return 100 * accuracy(model, draw)
