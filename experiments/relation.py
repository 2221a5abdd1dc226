"""The relation task: two marks far apart, are they alike? And small nets that learn it.

Only what looks across the image can answer: each mark is a 3 x 3 square of +2.5 or
-2.5, the two are at least 8 pixels apart (on one axis at least), and the label says
whether their signs are the same. Noise of 0.4 and a tile of stripes are clutter.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.nn.patches import Patches
from attnjax.nn.transformer import Block, layer_norm
from experiments.evidence import fit

SIDE, MARK, APART, TILE, PATCH = 16, 3, 8, 8, 2
HEIGHT, NOISE, STRIPES = 2.5, 0.4, 1.7
DIM, DEPTH, STEPS, BATCH, RATE = 24, 3, 500, 48, 3e-3


def draw(
  key: Array, number: int, side: int = SIDE
) -> tuple[Float[Array, "B S S 1"], Int[Array, "B"]]:
  """Images of that side, and 1 where the marks have the same sign."""
  keys = jax.random.split(key, 5)
  first, last = _places(side)
  pair = jax.random.randint(keys[0], (number,), 0, len(first))
  signs = jax.random.bernoulli(keys[1], 0.5, (number, 2)) * 2 - 1
  image = NOISE * jax.random.normal(keys[2], (number, side, side))
  for place, sign in zip((first, last), signs.T):
    image = image + HEIGHT * sign[:, None, None] * _square(place[pair], side, MARK)
  corners = jnp.asarray(list(np.ndindex(side // TILE, side // TILE))) * TILE
  corner = corners[jax.random.randint(keys[3], (number,), 0, len(corners))]
  wave = STRIPES * jnp.where(jnp.arange(side) // 2 % 2, -1.0, 1.0)
  upright = jax.random.bernoulli(keys[4], 0.5, (number, 1, 1))
  stripes = jnp.where(upright, wave[None, :], wave[:, None])
  image = image + stripes * _square(corner, side, TILE)
  return image[..., None], (signs[:, 0] == signs[:, 1]).astype(jnp.int32)


class Net(nnx.Module):
  """Patches, blocks around any image layers, the mean, a linear head.

  Args:
    builds: makers of layers of width DIM, `build(DIM, layers=, rngs=)`; block l has
      the l-th one, beginning again where there are fewer.
    positions: whether positions of a SIDE x SIDE image are learned.
    rngs: for the parameters.
  """

  def __init__(
    self, builds: Sequence[Callable], *, positions: bool = True, rngs: nnx.Rngs
  ):
    self.patches = Patches(1, DIM, PATCH, rngs=rngs)
    noise = 0.02 * jax.random.normal(rngs.params(), (SIDE // PATCH,) * 2 + (DIM,))
    self.positions = nnx.Param(noise) if positions else None
    self.blocks = nnx.List(
      Block(
        DIM,
        functools.partial(builds[number % len(builds)], DIM, layers=DEPTH),
        hidden=2 * DIM,
        rngs=rngs,
      )
      for number in range(DEPTH)
    )
    self.norm = layer_norm(DIM, rngs=rngs)
    self.head = nnx.Linear(DIM, 2, rngs=rngs)

  def __call__(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B 2"]:
    """Logits of "different" and "the same"."""
    x = self.patches(images)
    x = x if self.positions is None else x + self.positions[...]
    for number, block in enumerate(self.blocks):
      x = block(x, index=number)
    return self.head(self.norm(x).mean(axis=(1, 2)))


def train(
  builds: Sequence[Callable], *, positions: bool = True, steps: int = STEPS, seed=0
) -> Net:
  """A net after that many steps of AdamW on new images."""

  def loss(model, key):
    images, labels = draw(key, BATCH)
    logits = model(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  rate = optax.cosine_onecycle_schedule(steps, RATE)
  model = Net(builds, positions=positions, rngs=nnx.Rngs(seed))
  return fit(loss, model, steps=steps, optimizer=optax.adamw(rate), seed=seed)


def accuracy(model: Net, side: int = SIDE, number: int = 2000) -> float:
  """Per cent of right answers on images that were not trained on."""

  @jax.jit
  def right(model, key):
    images, labels = draw(key, 250, side)
    return (model(images).argmax(-1) == labels).mean()

  keys = jax.random.split(jax.random.key(10**6), number // 250)
  return 100 * float(np.mean([right(model, key) for key in keys]))


def _square(corner, side: int, size: int) -> Array:
  """(B, S, S), 1 in the square whose first pixel is the corner (B, 2)."""
  line = jnp.arange(side)
  inside = (line >= corner[..., None]) & (line < corner[..., None] + size)
  return (inside[:, 0, :, None] & inside[:, 1, None, :]).astype(jnp.float32)


@functools.cache
def _pairs(side: int) -> tuple[np.ndarray, np.ndarray]:
  line = np.arange(side - MARK + 1)
  places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
  apart = abs(places[:, None] - places[None, :]).max(-1) >= APART
  first, last = np.nonzero(apart)
  return places[first].astype(np.int32), places[last].astype(np.int32)


def _places(side: int) -> Any:
  return tuple(jnp.asarray(x) for x in _pairs(side))
