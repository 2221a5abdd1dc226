"""Agent attention: nearly softmax attention's quality, in linear time.

Claimed (arXiv:2312.08874): few agents are enough for the accuracy of softmax attention,
where linear attention falls short; the biases and the convolution of the values help;
long sequences are several times faster.

Two tasks of 6 x 6 tokens for one block 32 wide with 9 agents. The first compares far
blobs: a picture with a channel of nearness holds 6 blobs of 4 colours; which colour has
the nearest? The nearness of all is shifted at random and the next one is close behind,
so that a weight must grow sharply with it, which softmax does and a linear attention
does not. The second tells whether cells are alike along rows or along columns, which
takes a token and its neighbour to see.

  python -m experiments.claims agent_attention

Measured: biases and convolution neither help nor harm with blobs, which are far apart;
that they help is claimed of the texture alone. Without them agents are at chance there,
and so is softmax attention after as many steps.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.variants.linear import agent_attention
from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.vision import accuracy, jitted, mechanism, seconds, train

SIDE, PATCH, BLOBS, STEPS, HELD_OUT = 6, 2, 6, 320, 32
COLOURS = ((1.0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))
SHIFT, GAP, ALIKE, NOISE = 1.0, 0.1, 0.85, 0.1
TOKENS, WIDTH = 4096, 64


def claims() -> Iterator[Bound]:
  fast, slow = (_time(kind.Layer) for kind in (agent_attention, dot_product))
  yield at_least("times faster than softmax attention at 4096 tokens", slow / fast, 5)
  agent: dict[str, Any] = {"heads": 4, "num_agents": 9, "grid": SIDE}
  linear = {"heads": 4, "den_min": 1.0, "position_kernel": 0, "local_kernel": 0}
  builds = {
    "softmax": mechanism("dot_product", heads=4, rope_theta=0.0),
    "agents": mechanism("agent_attention", **agent),
    "bare": mechanism("agent_attention", **agent | {"agent_bias": False, "kernel": 0}),
    "linear": mechanism("l2vit", **linear),
  }
  options = {"classes": len(COLOURS), "patch": PATCH, "depth": 1, "steps": STEPS}
  points = {
    n: 100 * accuracy(train(build, draw, channels=4, **options), draw, batches=HELD_OUT)
    for n, build in builds.items()
  }
  yield reported("points of accuracy of softmax attention", points["softmax"])
  yield at_most("points that agents lose", points["softmax"] - points["agents"], 1.5)
  above = points["agents"] - points["linear"]
  yield at_least("points above linear attention", above, 2)
  bare = points["agents"] - points["bare"]
  yield reported("points that biases and convolution gain with blobs", bare)
  whole, bare = (
    100 * accuracy(train(builds[n], texture, channels=1, **options), texture)
    for n in ("agents", "bare")
  )
  yield at_least("points that biases and convolution gain", whole - bare, 0)


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 12, 12, 4), RGB and nearness, and the nearest blob's colour."""
  keys = jax.random.split(key, 5)
  colour = jax.random.randint(keys[0], (number, BLOBS), 0, len(COLOURS))
  shift = jax.random.uniform(keys[1], (number, 1), maxval=SHIFT)
  gaps = GAP * jax.random.uniform(keys[2], (number, BLOBS), minval=1, maxval=2)
  near = shift + jnp.cumsum(gaps, axis=1)  # the last one is the nearest
  order = jax.random.uniform(keys[3], (number, SIDE * SIDE)).argsort(axis=-1)
  blobs = jnp.concatenate([jnp.array(COLOURS)[colour], near[..., None]], axis=-1)
  cells = jnp.zeros((number, SIDE * SIDE, 4))
  cells = cells.at[jnp.arange(number)[:, None], order[:, :BLOBS]].set(blobs)
  image = _enlarged(cells.reshape(number, SIDE, SIDE, 4))
  return image + NOISE * jax.random.normal(keys[4], image.shape), colour[:, -1]


def texture(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 12, 12, 1), and 1 where cells are alike along columns, else 0."""
  keys = jax.random.split(key, 4)
  # Along each row a chain of signs that mostly stay.
  stay = jax.random.bernoulli(keys[0], ALIKE, (number, SIDE, SIDE))
  start = jax.random.bernoulli(keys[1], 0.5, (number, SIDE, 1))
  stay = jnp.where(jnp.arange(SIDE) == 0, start, stay)
  cells = jnp.cumprod(jnp.where(stay, 1.0, -1.0), axis=2)
  down = jax.random.bernoulli(keys[2], 0.5, (number,))
  cells = jnp.where(down[:, None, None], cells.swapaxes(1, 2), cells)
  image = _enlarged(cells[..., None])
  return image + NOISE * jax.random.normal(keys[3], image.shape), down.astype(int)


def _enlarged(cells):
  return cells.repeat(PATCH, axis=1).repeat(PATCH, axis=2)


def _time(layer) -> float:
  """Returns the seconds of a layer for the tokens of one image."""
  side = round(TOKENS**0.5)
  made = layer(WIDTH, form="image", heads=4, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, side, side, WIDTH))
  return seconds(jitted(lambda layer, x: layer(x), made, x), 5)
