"""Agent attention: nearly softmax attention's quality, in linear time.

Claimed (arXiv:2312.08874): few agents are enough for the accuracy of softmax attention,
where linear attention falls short; the biases and the convolution of the values help;
long sequences are several times faster.

The task: of several blobs one is marked; how many others have its colour? 8 x 8 tokens,
9 agents, two blocks.

  python -m experiments.claims agent_attention

Measured: only the speed holds. Softmax attention itself reaches 51 % in these steps:
the task is too hard to tell the models apart.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.variants.linear import agent_attention
from attnjax.variants.softmax import dot_product
from experiments.evidence import Claim, at_least, at_most, reported
from experiments.vision_claims import accuracy, jitted, mechanism, seconds, train

SIDE, PATCH, BLOBS, COLOURS, STEPS = 8, 4, 5, 4, 1000
TOKENS, WIDTH = 4096, 64


def claims() -> Iterator[Claim]:
  fast, slow = (_time(kind.Layer) for kind in (agent_attention, dot_product))
  yield at_least("times faster than softmax attention at 4096 tokens", slow / fast, 5)
  agent: dict[str, Any] = {"heads": 4, "agents": 9, "grid": SIDE}
  linear = {"heads": 4, "den_min": 1.0, "position": 0, "local": 0}
  builds = {
    "softmax": mechanism("dot_product", heads=4, rope_theta=0.0),
    "agents": mechanism("agent_attention", **agent),
    "bare": mechanism("agent_attention", **agent | {"agent_bias": False, "kernel": 0}),
    "linear": mechanism("l2vit", **linear),
  }
  options = {"channels": 3, "classes": BLOBS, "patch": PATCH, "steps": STEPS}
  points = {
    n: 100 * accuracy(train(build, draw, **options), draw)
    for n, build in builds.items()
  }
  yield reported("points of accuracy of softmax attention", points["softmax"])
  yield at_most("points that agents lose", points["softmax"] - points["agents"], 1.5)
  above = points["agents"] - points["linear"]
  yield at_least("points above linear attention", above, 2)
  bare = points["agents"] - points["bare"]
  yield at_least("points that biases and convolution gain", bare, 0)


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Images (B, 32, 32, 3), and how many of the others are like the marked blob."""
  keys = jax.random.split(key, 4)
  colour = jax.random.randint(keys[0], (number, BLOBS), 0, COLOURS)
  order = jax.random.uniform(keys[1], (number, SIDE * SIDE)).argsort(axis=-1)
  palette = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
  cells = jnp.zeros((number, SIDE * SIDE, 3))
  batch = jnp.arange(number)[:, None]
  cells = cells.at[batch, order[:, :BLOBS]].set(palette[colour])
  mark = jnp.zeros((number, SIDE * SIDE)).at[batch, order[:, :1]].set(1.0)
  side = jnp.array([0.3, 1.0, 1.0, 0.3])
  shape = side[:, None] * side
  centre = jnp.zeros((PATCH, PATCH)).at[1:3, 1:3].set(-1.0)
  image = jnp.einsum("btc,ij->btijc", cells, shape)
  image = image + jnp.einsum("bt,ij->btij", mark, centre)[..., None]
  image = image.reshape(number, SIDE, SIDE, PATCH, PATCH, 3).swapaxes(2, 3)
  image = image.reshape(number, SIDE * PATCH, SIDE * PATCH, 3)
  alike = (colour[:, 1:] == colour[:, :1]).sum(-1)
  return image + 0.1 * jax.random.normal(keys[2], image.shape), alike


def _time(layer) -> float:
  """Seconds of a layer's result for the tokens of one image."""
  side = round(TOKENS**0.5)
  made = layer(WIDTH, form="image", heads=4, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, side, side, WIDTH))
  return seconds(jitted(lambda layer, x: layer(x), made, x), 5)
