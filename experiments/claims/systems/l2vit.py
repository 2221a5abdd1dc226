"""L2ViT: linear attention is too smooth, and its convolutions concentrate it again.

Claimed (arXiv:2501.16182): linear attention spreads over all tokens where softmax
attention is sharp; the local concentration module brings back what that costs; the time
is linear in the tokens.

The task is to look up: every token has a code of six signs and a value, +1 or -1. Ten
marked tokens, which have no value, share their code with one token each, the next one
in their row; these ten have the value that is asked for. Over all tokens both values
are as frequent. To pick one of 26 codes needs sharp rows of attention; that the token
is a neighbour is what the concentration can use. 6 x 6 tokens of 4 x 4 pixels, one
block, 32 wide, two heads, 1000 steps. The clamp is at 1: at 100 it is active for so few
tokens. Linear attention learns nothing within these steps, so that its loss is also
one of speed of learning.

  python -m experiments.claims l2vit
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.variants.linear import l2vit
from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most
from experiments.claims.vision import accuracy, jitted, mechanism, seconds, train

SIDE, PATCH, MARKED, BITS, WIDE = 6, 4, 10, 6, 4
LENGTHS = (32**2, 128**2)
PLAIN = {"heads": 2, "den_min": 1.0, "position_kernel": 0, "local_kernel": 0}
MODELS = {
  "softmax": mechanism("dot_product", heads=2, rope_theta=0.0),
  "linear": mechanism("l2vit", **PLAIN),
  "concentrated": mechanism("l2vit", **PLAIN | {"local_kernel": 7}),
}


def claims() -> Iterator[Bound]:
  linear, softmax = _growth(l2vit.attend), _growth(dot_product.attend)
  yield at_most("time of linear attention, 32^2 to 128^2 tokens: times", linear, 24)
  yield at_least("the same of softmax attention", softmax, 100)
  options: dict[str, Any] = {"channels": 1, "classes": 2, "patch": PATCH}
  options |= {"depth": 1, "steps": 1000, "rate": 8e-3}
  trained = {n: train(build, draw, **options) for n, build in MODELS.items()}
  smooth = _entropy(trained["linear"]) - _entropy(trained["softmax"])
  yield at_least("entropy of linear attention's rows above softmax's, nats", smooth, 0)
  points = {n: 100 * accuracy(model, draw) for n, model in trained.items()}
  yield at_least("accuracy of softmax attention, per cent", points["softmax"], 95)
  lost = {n: points["softmax"] - points[n] for n in points}
  yield at_least("points of accuracy that linear attention loses", lost["linear"], 2)
  yield at_most("the same with concentration", lost["concentrated"], 1)


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 24, 24, 1), and the value of the marked tokens' neighbours."""
  keys = jax.random.split(key, 5)
  label = jax.random.randint(keys[0], (number,), 0, 2)
  # One code and value for each token that is not marked, the neighbours first.
  tokens = SIDE * SIDE - MARKED
  words = jax.random.uniform(keys[1], (number, 2**BITS)).argsort(-1)[:, :tokens]
  codes = 2.0 * (words[..., None] >> jnp.arange(BITS) & 1) - 1
  signs = jnp.where(jnp.arange(tokens) < tokens // 2, 1.0, -1.0)
  values = signs * (2.0 * label[:, None] - 1)
  near, far = values[:, :MARKED], values[:, MARKED:]
  order = jax.random.uniform(keys[2], far.shape).argsort(-1)
  far = jnp.take_along_axis(far, order, axis=1)
  shared = codes[:, :MARKED]
  pairs = jnp.stack([_cells(shared, 0 * near, 1.0), _cells(shared, near, 0.0)], axis=2)
  rest = _cells(codes[:, MARKED:], far, 0.0).reshape(number, -1, *pairs.shape[2:])
  pairs = jnp.concatenate([pairs, rest], axis=1)
  place = jax.random.uniform(keys[3], pairs.shape[:2]).argsort(-1)
  pairs = jnp.take_along_axis(pairs, place[..., None, None], axis=1)
  # Columns of even and of odd number are alike.
  rows = pairs.reshape(number, SIDE, SIDE, PATCH * PATCH)
  turned = jax.random.bernoulli(keys[4], 0.5, (number, SIDE, 1, 1))
  rows = jnp.where(turned, jnp.roll(rows, 1, axis=2), rows)
  images = rows.reshape(number, SIDE, SIDE, PATCH, PATCH).swapaxes(2, 3)
  return images.reshape(number, SIDE * PATCH, SIDE * PATCH, 1), label


def _cells(codes, values, mark):
  """Builds patches (B, tokens, pixels): a code, a value, a mark or none, and zeros."""
  values = jnp.repeat(values[..., None], WIDE, axis=-1)
  used = jnp.concatenate([codes, values, jnp.full_like(values, mark)], axis=-1)
  return jnp.pad(used, ((0, 0), (0, 0), (0, PATCH * PATCH - used.shape[-1])))


def _entropy(model) -> float:
  """Returns the mean entropy of nonzero rows, of all blocks, heads and tokens."""
  images, _ = draw(jax.random.key(10**6), 32)
  found = []
  for weights in model.weights(images):
    # A head's temperature may be negative.
    rows = jnp.abs(weights)
    total = rows.sum(-1, keepdims=True)
    rows = rows / jnp.where(total > 0, total, 1)
    entropy = -(rows * jnp.log(jnp.where(rows > 0, rows, 1))).sum(-1)
    found.append(entropy[total[..., 0] > 0])
  return float(jnp.concatenate(found).mean())


def _growth(attend) -> float:
  """Returns the time of the long sequence over that of the short one."""
  short, long = (
    seconds(jitted(attend, *jax.random.normal(jax.random.key(0), (3, 1, T, 2, 32))), n)
    for T, n in zip(LENGTHS, (20, 2))
  )
  return long / short
