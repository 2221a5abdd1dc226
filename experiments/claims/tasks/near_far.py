"""Every token tells two signs: one of a token beside it, and one of what is far away.

Each token of an image has a sign, +1 or -1, drawn alone, in normal noise. A token's
label is 2 far + near. Near is the sign of the other one of the pair of columns it lies
in, a detail finer than any window. Far is asked of the map half a side away on both
axes: the sign of the one token there ("token"), or the sign that most tokens of the
quarter have that lies there ("quarter"), in which every sign is as likely.

All tokens are asked, so that an image teaches as many bits as it has tokens and small
models learn within few steps; data sets of images teach one label an image.
"""

import functools

import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments import data, small
from experiments.claims import rows
from experiments.claims.claim import Row

PATCH, NOISE = 2, 0.3
TRAIN, HELD_OUT = 4096, 256
RECIPE = small.Recipe(steps=250, batch=16)


@functools.cache
def problem(far: str = "token", side: int = 8) -> small.Problem:
  """Returns the problem, scored by the share of tokens whose both signs are right."""
  return small.Problem(functools.partial(examples, far, side), _loss, _score)


@functools.cache
def examples(far: str, side: int, seed: int, split: str) -> dict[str, np.ndarray]:
  """Draws images (B, 2 side, 2 side, 1) and their tokens' labels (B, side, side)."""
  rng = np.random.default_rng([seed, data.SPLITS.index(split)])
  count, half = TRAIN if split == "train" else HELD_OUT, side // 2
  signs = rng.choice([-1.0, 1.0], size=(count, side, side))
  opposite = np.roll(signs, (half, half), axis=(1, 2))
  if far == "quarter":
    quarters = opposite.reshape(count, 2, half, 2, half).sum(axis=(2, 4))
    # The first token of a quarter decides where as many are of either sign.
    quarters = quarters + 0.5 * opposite[:, ::half, ::half]
    opposite = quarters.repeat(half, axis=1).repeat(half, axis=2)
  near = signs[:, :, np.arange(side) ^ 1]
  image = signs.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[..., None]
  image = image + NOISE * rng.standard_normal(image.shape)
  labels = 2 * (opposite > 0) + (near > 0)
  return {"image": image.astype(np.float32), "label": labels.astype(np.int32)}


class Net(nnx.Module):
  """Patches, blocks, and the head at every token instead of their mean."""

  def __init__(self, slugs, *, dim: int = 32, depth: int = 2, key: Array):
    sizes = {"channels": 1, "classes": 4, "patch": PATCH, "dim": dim, "depth": depth}
    self.inner = small.vision(slugs, **sizes)(key)

  def __call__(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B h w 4"]:
    """Returns the logits of every token."""
    return self.inner.head(self.inner.features(images)[-1])


def trained(
  name: str,
  kind: str,
  slugs,
  far: str = "token",
  *,
  side: int = 8,
  recipe: small.Recipe = RECIPE,
) -> Row:
  """Returns a row of networks with these mechanisms in turn."""
  return rows.trained(name, kind, _build(slugs), problem(far, side), recipe)


def without(name: str, slug, **options) -> Row:
  """Returns the row of the network whose mechanism gives zero; see `trained`."""
  return trained(name, "without", [small.without(slug, ("image",))], **options)


def _build(slugs):
  return lambda key: Net(slugs, key=key)


def _loss(call, batch):
  return optax.softmax_cross_entropy_with_integer_labels(
    call(batch["image"]), batch["label"]
  ).mean()


def _score(call, batch):
  return (call(batch["image"]).argmax(-1) == batch["label"]).mean()
