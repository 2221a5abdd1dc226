"""MSA-Conv: any size of image with one set of weights, and a reach around the border.

Claimed (arXiv:2310.04134): as the operator works like a convolution it takes images of
any size without retraining, which absolute positions do not; cyclic shifts in several
directions enlarge its reach.

Sizes: in each 8 x 8 pixels there is a pair of marks of 2 x 2, a bright one and a dark
one beside it, in noise. On which of four sides is it? All pairs of an image agree. This
is learned on 16 x 16 pixels and asked for on 24 x 24 and 32 x 32, where pairs are as
large and as dense. Four operators of 16 channels and the mean, against a Vision
Transformer of two layers on patches of 2 x 2, which are the marks, with learned
positions that are interpolated. It gets six times the steps, to be as good at the
trained size, and matrices that begin with the spread of `tasks.far_mark`. (With
the direction of stripes in noise, which hardly asks where tokens are, it lost nothing.)

Reach: tokens are asked what a mark at the opposite border says, at most one row above
or below it (`tasks.far_mark`). 8 x 8 tokens, two blocks: without shifts nobody
sees the mark.

  python -m experiments.claims msa_conv

It takes two to three minutes on 2 cores.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.nn.patches import Patches
from attnjax.nn.transformer import Block, layer_norm
from attnjax.variants.local import msa_conv
from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.fit import fit, spread
from experiments.claims.tasks import far_mark
from experiments.claims.vision import mechanism

SIDE, LARGER, CELL = 16, (24, 32), 8
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CHANNELS, DEPTH, WIDTH, PATCH = 16, 4, 32, 2
STEPS, MORE, BATCH, RATE, HEIGHT, NOISE = 120, 720, 32, 5e-3, 2.5, 0.4
BORDERS = far_mark.Task(side=16, apart=6, rows=1)


def claims() -> Iterator[Bound]:
  yield from _sizes()
  plain, shifted = (_reach(shift) for shift in (0, 1))
  yield reported("per cent right of marks at opposite borders, no shifts", plain)
  yield at_least("points above that with cyclic shifts", shifted - plain, 10)


def _reach(shift: int) -> float:
  build = mechanism("msa_conv", heads=4, shift=shift, impl="reference")
  return far_mark.accuracy(far_mark.train([build], BORDERS), BORDERS)


def _sizes():
  model = _train(_Operators(nnx.Rngs(0)), STEPS)
  points = [_points(model, side) for side in (SIDE, *LARGER)]
  yield at_least("per cent right at the trained size", points[0], 95)
  lost = points[0] - min(points[1:])
  yield at_most("points lost on larger images", lost, 3)
  model = _train(jax.tree.map(_spread, _Transformer(nnx.Rngs(0))), MORE)
  points = [_points(model, side) for side in (SIDE, *LARGER)]
  yield at_least("the same of the Vision Transformer", points[0], 95)
  more = points[0] - min(points[1:]) - lost
  yield at_least("points that the Vision Transformer loses more", more, 1)


class _Operators(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    widths = (1, *(CHANNELS,) * DEPTH)
    self.operators = nnx.List(
      msa_conv.MSAConv2d(below, dim, bias=True, impl="reference", rngs=rngs)
      for below, dim in zip(widths, widths[1:])
    )
    self.head = nnx.Linear(CHANNELS, len(SIDES), rngs=rngs)

  def __call__(self, x):
    for operator in self.operators:
      x = operator(x)
    return self.head(x.mean(axis=(1, 2)))


class _Transformer(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    def mixer(rngs):
      options = {"heads": 4, "rope_theta": 0.0, "impl": "reference"}
      return dot_product.Layer(WIDTH, form="image", **options, rngs=rngs)

    self.patches = Patches(1, WIDTH, PATCH, rngs=rngs)
    noise = jax.random.normal(rngs.params(), (SIDE // PATCH,) * 2 + (WIDTH,))
    self.positions = nnx.Param(0.02 * noise)
    self.blocks = nnx.List(
      Block(WIDTH, mixer, hidden=2 * WIDTH, rngs=rngs) for _ in range(2)
    )
    self.norm = layer_norm(WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, len(SIDES), rngs=rngs)

  def __call__(self, x):
    x = self.patches(x)
    x = x + jax.image.resize(self.positions[...], x.shape[1:], "linear")
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x).mean(axis=(1, 2)))


def _draw(key, number, side):
  """Draws images (B, side, side, 1) of pairs of marks, and the dark one's direction."""
  keys = jax.random.split(key, 3)
  label = jax.random.randint(keys[0], (number,), 0, len(SIDES))
  cells, tokens = side // CELL, CELL // PATCH
  shape = (number, cells, cells, 2)
  bright = jax.random.randint(keys[1], shape, 1, tokens - 1)
  dark = bright + jnp.array(SIDES)[label][:, None, None]
  line = jnp.arange(tokens)
  image = jnp.zeros((number, side, side))
  for place, sign in ((bright, 1), (dark, -1)):
    rows, columns = (place[..., axis, None] == line for axis in (0, 1))
    marks = (rows[..., :, None] & columns[..., None, :]).swapaxes(2, 3)
    marks = marks.reshape(number, side // PATCH, side // PATCH)
    image += sign * HEIGHT * marks.repeat(PATCH, 1).repeat(PATCH, 2)
  image += NOISE * jax.random.normal(keys[2], image.shape)
  return image[..., None], label


def _spread(weight: jax.Array) -> jax.Array:
  """Rescales a matrix to one spread; positions and other weights stay as they are."""
  if weight.ndim not in (2, 3) or weight.shape[0] == SIDE // PATCH:
    return weight
  # Weights with an axis of heads have WIDTH inputs.
  inputs = weight.shape[0] if weight.ndim == 2 else WIDTH
  return spread(weight, inputs, far_mark.GAIN)


def _train(model: Any, steps: int) -> Any:
  def loss(model, key):
    images, labels = _draw(key, BATCH, SIDE)
    logits = model(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  schedule = optax.warmup_cosine_decay_schedule(0, RATE, steps // 10, steps)
  return fit(loss, model, steps=steps, optimizer=optax.adam(schedule))


def _points(model: Any, side: int) -> float:
  @jax.jit
  def right(model, key):
    images, labels = _draw(key, 250, side)
    return (model(images).argmax(-1) == labels).mean()

  keys = jax.random.split(jax.random.key(10**6), 4)
  return 100 * float(np.mean([right(model, key) for key in keys]))
