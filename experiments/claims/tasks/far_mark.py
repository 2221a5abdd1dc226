"""The relation task, whose answer is a mark far away, and small nets that learn it.

Only what looks across the image can answer. A mark is one token (2 x 2 pixels) of +2.5
or -2.5 in noise of 0.4, and the tokens at least so far away are asked for its sign. All
of them are asked, so that an image teaches more than one bit.

With clutter what is near matters too: the image is cut into cells of 4 x 4 tokens, each
holds one token of either sign, and the mark is the one whose cell also holds a flag, a
token of 2 x 2 pixels like a chessboard.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.core.positions import sinusoids
from attnjax.nn.patches import Patches
from attnjax.nn.transformer import Block, layer_norm
from experiments.claims.fit import fit, spread

SIDE, PATCH, CELL = 16, 2, 4
HEIGHT, NOISE, GAIN = 2.5, 0.4, 0.5
DIM, DEPTH, STEPS, BATCH, RATE = 24, 2, 300, 32, 1e-2


@dataclasses.dataclass(frozen=True)
class Task:
  """The images that are drawn, and the tokens of them that are asked.

  Attributes:
    side: pixels of a side; whole cells with clutter, whole patches without.
    apart: tokens between the mark and those asked, at least, on one axis or both.
    within: tokens between the mark and those asked, at most.
    rows: at most so many tokens above or below the mark.
    clutter: whether there are cells and flags.
  """

  side: int = SIDE
  apart: int = 4
  within: int = 10**6
  rows: int = 10**6
  clutter: bool = False


def draw(
  key: Array, number: int, task: Task = Task()
) -> tuple[Float[Array, "B S S 1"], Int[Array, "B"], Bool[Array, "B h h"]]:
  """Draws images, labels (1: the mark is positive) and the mask of tokens asked."""
  keys = jax.random.split(key, 4)
  places, asked = (jnp.asarray(x) for x in _asked(task))
  chosen = places[jax.random.randint(keys[0], (number,), 0, len(places))]
  h = task.side // PATCH
  mark = jnp.stack([chosen // h, chosen % h], axis=-1)
  positive = jax.random.bernoulli(keys[1], 0.5, (number,))
  value = _point(mark, h) * jnp.where(positive, 1.0, -1.0)[:, None, None]
  image = NOISE * jax.random.normal(keys[2], (number, task.side, task.side))
  if task.clutter:
    others, flag = _clutter(keys[3], mark, h)
    value = value + others
    image = image + HEIGHT * jnp.kron(flag, jnp.array([[[1.0, -1.0], [-1.0, 1.0]]]))
  image = image + HEIGHT * jnp.kron(value, jnp.ones((1, PATCH, PATCH)))
  return image[..., None], positive.astype(jnp.int32), asked[chosen]


class Net(nnx.Module):
  """Patches, blocks around any image layers, a linear head at every token.

  Args:
    builds: constructors of layers, `build(DIM, layers=, rngs=)`, one for each block;
      they repeat where there are fewer.
    positions: whether sinusoidal positions are added.
    depth: number of blocks.
    rngs: for the parameters.
  """

  def __init__(
    self, builds: Sequence[Callable], *, positions: bool, depth: int, rngs: nnx.Rngs
  ):
    self.patches = Patches(1, DIM, PATCH, rngs=rngs)
    self.positions = positions
    self.blocks = nnx.List(
      Block(
        DIM,
        functools.partial(builds[number % len(builds)], DIM, layers=depth),
        hidden=2 * DIM,
        rngs=rngs,
      )
      for number in range(depth)
    )
    self.norm = layer_norm(DIM, rngs=rngs)
    self.head = nnx.Linear(DIM, 2, rngs=rngs)

  def __call__(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B h w 2"]:
    """Returns the logits of a negative and of a positive mark."""
    x = self.embed(images)
    for number, block in enumerate(self.blocks):
      x = block(x, index=number)
    return self.head(self.norm(x))

  def embed(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B h w D"]:
    """Embeds the images to the input of the first block."""
    x = self.patches(images)
    return x + sinusoids(x.shape[1:3], DIM) if self.positions else x


def loss(model: Any, key: Array, task: Task = Task()) -> Float[Array, ""]:
  """Returns the mean cross entropy of the tokens that are asked."""
  images, labels, asked = draw(key, BATCH, task)
  labels = jnp.broadcast_to(labels[:, None, None], asked.shape)
  wrong = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
  return jnp.where(asked, wrong, 0).sum() / asked.sum()


def train(
  builds: Sequence[Callable],
  task: Task = Task(),
  *,
  positions: bool = True,
  depth: int = DEPTH,
  steps: int = STEPS,
  rate: float = RATE,
  seed: int = 0,
) -> Net:
  """Trains a net by `steps` steps of AdamW on new images."""
  model = Net(builds, positions=positions, depth=depth, rngs=nnx.Rngs(seed))
  model = jax.tree.map(_spread, model)
  optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, rate))
  asks = functools.partial(loss, task=task)
  return fit(asks, model, steps=steps, optimizer=optimizer, seed=seed)


def accuracy(model: Any, task: Task = Task(), number: int = 2000) -> float:
  """Returns per cent of right answers on images that were not trained on."""

  @jax.jit
  def right(model, key):
    images, labels, asked = draw(key, 250, task)
    found = model(images).argmax(-1) == labels[:, None, None]
    return (found & asked).sum() / asked.sum()

  keys = jax.random.split(jax.random.key(10**6), number // 250)
  return 100 * float(np.mean([right(model, key) for key in keys]))


def _spread(weight: Array) -> Array:
  """Rescales matrices to one spread; other weights stay as they are."""
  if weight.ndim not in (2, 3):
    return weight
  # Weights with an axis of heads have DIM inputs.
  return spread(weight, weight.shape[0] if weight.ndim == 2 else DIM, GAIN)


def _point(place, h: int) -> Array:
  """Returns (B, h, h) with 1 at the token of that row and column (B, 2)."""
  line = jnp.arange(h)
  tall, wide = (line == place[:, axis, None] for axis in (0, 1))
  return (tall[:, :, None] & wide[:, None, :]).astype(jnp.float32)


def _clutter(key, mark, h: int) -> tuple[Array, Array]:
  """Draws the signs of the other cells, and the flag of the mark's, (B, h, h) each."""
  keys = jax.random.split(key, 3)
  shape = (len(mark), h // CELL, h // CELL)
  inner = jax.random.randint(keys[0], shape, 0, CELL**2)
  tokens = jax.nn.one_hot(inner, CELL**2).reshape(*shape, CELL, CELL)
  tokens = tokens * jax.random.rademacher(keys[1], shape, jnp.float32)[..., None, None]
  others = 1 - _point(mark // CELL, h // CELL)
  tokens = (tokens * others[..., None, None]).swapaxes(2, 3).reshape(-1, h, h)
  own = mark % CELL
  step = jax.random.randint(keys[2], shape[:1], 1, CELL**2)
  flag = (own[:, 0] * CELL + own[:, 1] + step) % CELL**2
  flag = jnp.stack([flag // CELL, flag % CELL], axis=-1) + mark - own
  return tokens, _point(flag, h)


@functools.cache
def _asked(task: Task) -> tuple[np.ndarray, np.ndarray]:
  """Returns the places a mark can be at, and the tokens (h, h) asked for each place."""
  h = task.side // PATCH
  rows, columns = np.abs(np.indices((h, h, h, h))[:2] - np.indices((h, h, h, h))[2:])
  away = np.maximum(rows, columns)
  asked = (away >= task.apart) & (away <= task.within) & (rows <= task.rows)
  asked = asked.reshape(h * h, h, h)
  return np.nonzero(asked.any((1, 2)))[0].astype(np.int32), asked
