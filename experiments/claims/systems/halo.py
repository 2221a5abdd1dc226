"""Halo attention: blocks with surroundings keep what blocks lose at their edges.

Claimed (arXiv:2103.12731, section 3): letting the queries of a block share its
neighbourhood costs little and loses nothing, while windows without halo do not see
across their edges; with as many parameters it sees more than convolutions of 3 x 3.

The task: a red and a green dot somewhere on 12 x 12 pixels, each pixel a token; which
of 24 offsets, up to two rows and columns, has the second from the first? The answer is
read at the first dot. One block, 32 wide, 400 steps; blocks of 2 and a halo of 2
against windows of 4, and of 6, which see as many keys as the halos, and against a
convolution of 3 x 3 through 13 channels, which has as many parameters. In one block it
sees one pixel far, and fails by its reach; two blocks of either solve this task.

  python -m experiments.claims halo

It takes two and a half minutes.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.models import vision
from experiments.claims.bounds import Bound, at_least, reported
from experiments.claims.vision import accuracy, mechanism, train

SIDE, REACH, HEADS, NOISE, SPAN = 12, 2, 8, 0.1, 5
STEPS, BATCH, RATE = 400, 32, 6e-3
NARROW = 13  # channels of the convolution


def claims() -> Iterator[Bound]:
  points = _halo(2, 2)
  yield at_least("per cent right, blocks of 2 with a halo of 2", points, 95)
  for block in (4, 6):
    name = f"points above windows of {block}"
    yield at_least(name, points - _halo(block, 0), 10)
  convolution = _points(_Convolution)
  yield at_least("points above a 3 x 3 convolution", points - convolution, 0)
  whole = mechanism("dot_product", heads=HEADS, rope_theta=0.0)
  yield reported("per cent right, softmax attention", _points(whole))


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 12, 12, 2), a dot in each channel, and the offset's number."""
  keys = jax.random.split(key, 3)
  label = jax.random.randint(keys[0], (number,), 0, SPAN**2 - 1)
  offset = label + (label >= SPAN**2 // 2)  # not the same place
  offset = jnp.stack([offset // SPAN, offset % SPAN], axis=-1) - REACH
  first = jax.random.randint(keys[1], (number, 2), REACH, SIDE - REACH)
  second = first + offset
  dots = [
    jax.nn.one_hot(at[:, 0], SIDE)[:, :, None] * jax.nn.one_hot(at[:, 1], SIDE)[:, None]
    for at in (first, second)
  ]
  image = 3 * jnp.stack(dots, axis=-1)
  return image + NOISE * jax.random.normal(keys[2], image.shape), label


class _Host(nnx.Module):
  """A classifier that answers at the first dot's token."""

  def __init__(self, builds, **options):
    self.model = vision.Model(builds, **options)

  def __call__(self, images, *, key=None):
    x = self.model.features(images, key=key)[-1]
    first = images[..., 0].reshape(len(images), -1).argmax(axis=-1)
    tokens = x.reshape(len(x), -1, x.shape[-1])
    return self.model.head(tokens[jnp.arange(len(x)), first])


class _Convolution(nnx.Module):
  """A convolution of 3 x 3 pixels to few channels, and a projection of these to D."""

  form = "image"

  def __init__(self, dim: int, *, layers: int, rngs: nnx.Rngs):
    del layers
    self.convolution = nnx.Conv(dim, NARROW, (3, 3), rngs=rngs)
    self.out = nnx.Linear(NARROW, dim, rngs=rngs)

  def __call__(self, x, **context):
    del context
    return self.out(self.convolution(x))


def _halo(block: int, border: int) -> float:
  options = {"heads": HEADS, "block": block, "halo": border, "output": True}
  return _points(mechanism("halo", **options))


def _points(build) -> float:
  task = {"channels": 2, "classes": SPAN**2 - 1, "patch": 1, "host": _Host}
  model = train(build, draw, **task, depth=1, steps=STEPS, batch=BATCH, rate=RATE)
  return 100 * accuracy(model, draw)
