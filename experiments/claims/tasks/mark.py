"""The problem asks every token what a mark far away says, and a net answers it.

Images of 16 x 16 pixels are 8 x 8 tokens of 2 x 2. One token, the mark, is bright or
dark in noise; tokens that are at least so far from it, on one axis, are asked which.
Only what looks across the image can answer, and all of them are asked, so that an image
teaches more than one bit. An own problem, since the shared suite asks images for one
class each, which the mean of all tokens tells.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.core.positions import sinusoids
from attnjax.nn.blocks import Block
from attnjax.nn.patches import Patches
from experiments import small

TOKENS, PATCH, HEIGHT, NOISE = 8, 2, 2.5, 0.4
_SPLITS = ("train", "validation", "test")


def problem(*, apart: int, rows: int = TOKENS, train=4000, held_out=400):
  """Returns the problem; its score is the share of right answers of tokens asked.

  Args:
    apart: tokens between the mark and those asked, on one axis or both, at least.
    rows: rows between them, at most.
    train: number of training images.
    held_out: number of images to validate on, and of as many to test on.
  """
  places = np.indices((TOKENS, TOKENS)).reshape(2, -1).T
  away = np.abs(places[:, None] - places)  # (mark, token, axis)
  asked = (away.max(-1) >= apart) & (away[..., 0] <= rows)
  marks = np.nonzero(asked.any(1))[0]

  @functools.lru_cache(maxsize=8)
  def examples(seed, split):
    number = train if split == "train" else held_out
    rng = np.random.default_rng([seed, _SPLITS.index(split)])
    mark, bright = rng.choice(marks, number), rng.integers(2, size=number)
    value = np.eye(TOKENS**2)[mark] * (2 * bright - 1)[:, None]
    value = value.reshape(-1, TOKENS, TOKENS).repeat(PATCH, 1).repeat(PATCH, 2)
    image = HEIGHT * value + NOISE * rng.standard_normal(value.shape)
    labels = np.where(asked[mark], bright[:, None], -1)
    return {
      "image": image[..., None].astype(np.float32),
      "labels": labels.reshape(-1, TOKENS, TOKENS).astype(np.int32),
    }

  return small.Problem(examples, _loss, _score)


class Net(nnx.Module):
  """Patches, blocks around image layers, and two logits at every token.

  Args:
    build: build(dim, layers=, rngs=) of a layer.
    dim: width.
    depth: number of blocks.
    rngs: for the parameters.
  """

  def __init__(self, build, *, dim, depth, rngs):
    self.patches = Patches(1, dim, PATCH, rngs=rngs)
    sizes = {"norm": "layer", "feed_forward": "gelu", "hidden": 2 * dim}
    self.blocks = nnx.List(
      Block(dim, build, layers=depth, conv=0, dropout=0.0, **sizes, rngs=rngs)
      for _ in range(depth)
    )
    self.norm = nnx.LayerNorm(dim, rngs=rngs)
    self.head = nnx.Linear(dim, 2, rngs=rngs)

  def __call__(self, image):
    """Returns the logits (B, h, w, 2) of images (B, H, W, 1)."""
    x = self.embed(image)
    for index, block in enumerate(self.blocks):
      x = block(x, index=index)
    return self.head(self.norm(x))

  def embed(self, image):
    """Returns the input of the first block, (B, h, w, D)."""
    x = self.patches(image)
    return x + sinusoids(x.shape[1:3], x.shape[-1])


def net(mixer, *, dim, depth):
  """Returns what makes a Net from a random key; `mixer` as in `small.layer`."""
  build = small.layer(mixer, ("image",))
  return lambda key: Net(build, dim=dim, depth=depth, rngs=nnx.Rngs(key))


def _loss(call, batch):
  counted = batch["labels"] >= 0
  losses = optax.softmax_cross_entropy_with_integer_labels(
    call(batch["image"]), jnp.where(counted, batch["labels"], 0)
  )
  return jnp.sum(losses * counted) / counted.sum()


def _score(call, batch):
  counted = batch["labels"] >= 0
  right = (call(batch["image"]).argmax(-1) == batch["labels"]) & counted
  return right.sum() / counted.sum()


def random_keys(number: int) -> jax.Array:
  """Returns a mask (T, T) of so many random keys of each token, the same everywhere."""
  rank = jax.random.uniform(jax.random.key(7), (TOKENS**2, TOKENS**2)).argsort(-1)
  return rank < number
