"""L2ViT: linear attention is too smooth, and its convolutions concentrate it again.

Claimed (arXiv:2501.16182): linear attention spreads over all tokens where softmax
attention is sharp; the local concentration module brings back what that costs; the time
is linear in the tokens.

The task has two parts, four classes in all: whether the glyphs in two corners are the
same, and whether cells are alike along rows or along columns, which takes a token and
its neighbour to see. 8 x 8 tokens in images of 32 x 32; two blocks, 32 wide, 600 steps.
The clamp is at 1: at 100 it is active for so few tokens.

  python -m experiments.claims l2vit

Measured: that linear attention is smoother, and worse, than softmax attention does not
hold on this task, where softmax attention learns less than both others.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.linear import l2vit
from attnjax.variants.softmax import dot_product
from experiments.evidence import Claim, at_least, at_most
from experiments.vision_claims import answers, jitted, mechanism, seconds, train

SIDE, PATCH, GLYPHS, ALIKE = 8, 4, 4, 0.85
LENGTHS = (32**2, 128**2)
PLAIN = {"heads": 4, "den_min": 1.0, "position": 0, "local": 0}
MODELS = {
  "softmax": mechanism("dot_product", heads=4, rope_theta=0.0),
  "linear": mechanism("l2vit", **PLAIN),
  "concentrated": mechanism("l2vit", **PLAIN | {"local": 7}),
}


def claims() -> Iterator[Claim]:
  linear, softmax = _growth(l2vit.attend), _growth(dot_product.attend)
  yield at_most("time of linear attention, 32^2 to 128^2 tokens: times", linear, 24)
  yield at_least("the same of softmax attention", softmax, 100)
  options = {"channels": 1, "classes": 4, "patch": PATCH}
  trained = {n: train(build, draw, **options) for n, build in MODELS.items()}
  smooth = _entropy(trained["linear"]) - _entropy(trained["softmax"])
  yield at_least("entropy of linear attention's rows above softmax's, nats", smooth, 0)
  whole, texture = zip(*(_points(model) for model in trained.values()))
  lost = whole[0] - whole[1]
  yield at_least("points of accuracy that linear attention loses", lost, 2)
  yield at_most("the same with concentration", whole[0] - whole[2], 1)
  gained = texture[2] - texture[1]
  yield at_least("points of texture that concentration gains", gained, 2)


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Images (B, 32, 32, 1), and 2 (the glyphs are the same) + (alike along columns)."""
  keys = jax.random.split(key, 6)
  same = jax.random.bernoulli(keys[0], 0.5, (number,))
  down = jax.random.bernoulli(keys[1], 0.5, (number,))
  first = jax.random.randint(keys[2], (number,), 0, GLYPHS)
  other = (first + jax.random.randint(keys[3], (number,), 1, GLYPHS)) % GLYPHS
  # Along each row a chain of signs that mostly stay.
  stay = jax.random.bernoulli(keys[4], ALIKE, (number, SIDE, SIDE))
  start = jax.random.bernoulli(keys[5], 0.5, (number, SIDE, 1))
  stay = jnp.where(jnp.arange(SIDE) == 0, start, stay)
  cells = jnp.cumprod(jnp.where(stay, 1.0, -1.0), axis=2)
  cells = jnp.where(down[:, None, None], cells.swapaxes(1, 2), cells)
  image = jnp.kron(cells, jnp.ones((1, PATCH, PATCH)))
  glyphs = jax.random.normal(jax.random.key(7), (GLYPHS, PATCH, PATCH))
  image = image.at[:, :PATCH, :PATCH].set(2 * glyphs[first])
  last = jnp.where(same, first, other)
  image = image.at[:, -PATCH:, -PATCH:].set(2 * glyphs[last])
  return image[..., None], 2 * same + down


def _points(model) -> tuple[float, float]:
  """Accuracy of both answers together, and of the texture, in per cent."""
  guessed, labels = answers(model, draw)
  texture = guessed % 2 == labels % 2
  return 100 * float((guessed == labels).mean()), 100 * float(texture.mean())


def _entropy(model) -> float:
  """Mean entropy of the rows of all blocks, heads and tokens, each summing to 1."""
  images, _ = draw(jax.random.key(10**6), 32)
  found = []
  for weights in model.weights(images):
    rows = weights / weights.sum(-1, keepdims=True).clip(1e-12)
    found.append(-(rows * jnp.log(rows.clip(1e-12))).sum(-1).mean())
  return float(np.mean(found))


def _growth(attend) -> float:
  """The time of the long sequence in those of the short one."""
  short, long = (
    seconds(jitted(attend, *jax.random.normal(jax.random.key(0), (3, 1, T, 2, 32))), n)
    for T, n in zip(LENGTHS, (20, 2))
  )
  return long / short
