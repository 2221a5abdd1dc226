"""Two marks at a known distance, are they alike? And a small net that is asked.

As `experiments.relation`, with what is near enough to be seen under control: each mark
is a 3 x 3 square of +2.5 or -2.5, so many columns apart, in noise of 0.4. The label
says whether their signs are the same.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.nn.patches import Patches
from attnjax.nn.transformer import Block, layer_norm
from experiments.evidence import fit

MARK, HEIGHT, NOISE = 3, 2.5, 0.4
DIM, PATCH, STEPS, BATCH, RATE = 24, 2, 500, 48, 3e-3


def draw(
  key: Array, number: int, side: int, apart: int, rows: int
) -> tuple[Float[Array, "B S S 1"], Int[Array, "B"]]:
  """Images of that side, and 1 where the marks have the same sign.

  Args:
    key: of the images.
    number: of images.
    side: of an image.
    apart: columns from the left mark's first to the right mark's.
    rows: by which the marks' rows differ at most.
  """
  keys = jax.random.split(key, 5)
  last = side - MARK
  column = jax.random.randint(keys[0], (number,), 0, last - apart + 1)
  row = jax.random.randint(keys[1], (number,), 0, last + 1)
  below = jax.random.randint(keys[2], (number,), -rows, rows + 1)
  other = jnp.clip(row + below, 0, last)
  signs = jax.random.bernoulli(keys[3], 0.5, (2, number)) * 2 - 1
  image = NOISE * jax.random.normal(keys[4], (number, side, side))
  for sign, top, left in ((signs[0], row, column), (signs[1], other, column + apart)):
    line = jnp.arange(side)
    tall, wide = (
      (line >= first[:, None]) & (line < first[:, None] + MARK) for first in (top, left)
    )
    square = tall[:, :, None] & wide[:, None, :]
    image = image + HEIGHT * sign[:, None, None] * square
  return image[..., None], (signs[0] == signs[1]).astype(jnp.int32)


class Net(nnx.Module):
  """Patches, positions, one block for each maker of a layer, the mean, a linear head.

  Args:
    builds: makers of layers, `build(DIM, layers=, rngs=)`.
    side: of the images.
    rngs: for the parameters.
  """

  def __init__(self, builds: Sequence[Callable], side: int, *, rngs: nnx.Rngs):
    self.patches = Patches(1, DIM, PATCH, rngs=rngs)
    grid = (-(-side // PATCH),) * 2
    self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (*grid, DIM)))

    def mixer(build):
      return lambda *, rngs: build(DIM, layers=len(builds), rngs=rngs)

    self.blocks = nnx.List(
      Block(DIM, mixer(build), hidden=2 * DIM, rngs=rngs) for build in builds
    )
    self.norm = layer_norm(DIM, rngs=rngs)
    self.head = nnx.Linear(DIM, 2, rngs=rngs)

  def __call__(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B 2"]:
    """Logits of "different" and "the same"."""
    x = self.patches(images) + self.positions[...]
    for number, block in enumerate(self.blocks):
      x = block(x, index=number)
    return self.head(self.norm(x).mean(axis=(1, 2)))


def points(
  builds: Sequence[Callable],
  *,
  side: int,
  apart: int,
  rows: int,
  steps: int = STEPS,
  seed: int = 0,
) -> float:
  """Per cent of right answers after that many steps of AdamW on new images."""

  def loss(model, key):
    images, labels = draw(key, BATCH, side, apart, rows)
    logits = model(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, RATE))
  model = Net(builds, side, rngs=nnx.Rngs(seed))
  model = fit(loss, model, steps=steps, optimizer=optimizer, seed=seed)

  @jax.jit
  def right(model, key):
    images, labels = draw(key, 250, side, apart, rows)
    return (model(images).argmax(-1) == labels).mean()

  keys = jax.random.split(jax.random.key(10**6), 8)
  return 100 * float(np.mean([right(model, key) for key in keys]))
