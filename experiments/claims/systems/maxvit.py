"""MaxViT: windows see what is near, grids see what is far, and both are linear.

Claimed (arXiv:2204.01697): attention in windows and over a dilated grid in turn sees
everything at a cost linear in the pixels; windows alone lack the whole, grids alone the
detail.

The task has two parts, four classes in all, asked of every token. Each token has one of
two colours, drawn alone. Whole: which colour has the token half the map away on both
axes? Detail: which has the other one of the pair of columns it lies in? 8 x 8 tokens,
groups of 4 x 4, two layers (one of the paper's blocks has as many attentions), 32 wide,
300 steps. A grid has every second column, so that no grid holds a pair, and no window
holds two tokens so far apart. Softmax attention of all tokens is the same layer with
one window, and its biases; it has not learned all of the detail in these steps.

  python -m experiments.claims maxvit

It takes a minute and a half.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.models import vision
from attnjax.variants.local import maxvit
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.vision import answers, jitted, mechanism, seconds, train

SIDE, PATCH, GROUP, NOISE = 8, 2, 4, 0.3
TRAINING = {"channels": 1, "classes": 4, "patch": PATCH, "depth": 2, "steps": 300}
BATCH, RATE = 32, 5e-3
WIDTH, SIDES = 64, (32, 64)


def claims() -> Iterator[Bound]:
  short, long = (_time(side) for side in SIDES)
  yield at_most(
    "time of windows and grids, 32^2 to 64^2 tokens: times", long / short, 6
  )
  points = _points("alternate", GROUP)
  yield at_least("per cent right, windows and grids in turn", points[0], 95)
  _, whole, detail = _points("window", GROUP)
  yield at_most("per cent right about the whole, windows alone", whole, 60)
  yield reported("per cent right about the detail, windows alone", detail)
  _, whole, detail = _points("grid", GROUP)
  yield at_most("per cent right about the detail, grids alone", detail, 60)
  yield reported("per cent right about the whole, grids alone", whole)
  points = _points("window", SIDE)
  yield reported("per cent right, softmax attention", points[0])


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 16, 16, 1), and 2 (far colour) + (near one) of each token."""
  colours, noise = jax.random.split(key)
  tokens = jax.random.rademacher(colours, (number, SIDE, SIDE), jnp.float32)
  far = jnp.roll(tokens, (SIDE // 2, SIDE // 2), axis=(1, 2))
  near = tokens[:, :, jnp.arange(SIDE) ^ 1]
  image = tokens.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[..., None]
  image = image + NOISE * jax.random.normal(noise, image.shape)
  return image, 2 * (far > 0).astype(jnp.int32) + (near > 0)


class _Host(nnx.Module):
  """A classifier with an answer at every token."""

  def __init__(self, builds, **options):
    self.model = vision.Model(builds, **options)

  def __call__(self, images, *, key=None):
    return self.model.head(self.model.features(images, key=key)[-1])


def _points(kind: str, window: int) -> tuple[float, float, float]:
  """Trains a model; returns per cent right of both answers, the whole, the detail."""
  build = mechanism("maxvit", head_dim=8, window=window, kind=kind)
  model = train(build, draw, **TRAINING, batch=BATCH, rate=RATE, host=_Host)
  guessed, labels = answers(model, draw, batches=2)
  right = guessed == labels, guessed // 2 == labels // 2, guessed % 2 == labels % 2
  both, whole, detail = (100 * float(part.mean()) for part in right)
  return both, whole, detail


def _time(side: int) -> float:
  """Returns the seconds of both attentions for one image."""
  layers = [
    maxvit.Layer(WIDTH, head_dim=16, kind=kind, rngs=nnx.Rngs(0))
    for kind in ("window", "grid")
  ]
  x = jax.random.normal(jax.random.key(0), (1, side, side, WIDTH))
  return seconds(jitted(lambda layers, x: layers[1](layers[0](x)), layers, x), 5)
