"""MaxViT: windows see texture, grids see what is far apart, and both are linear.

Claimed (arXiv:2204.01697): attention in windows and over a dilated grid in turn sees
everything at a cost linear in the pixels; windows alone lack the whole, grids alone the
detail.

The task has two parts, four classes in all. Whole: have two opposite corners the same
colour? Texture: are neighbours in a row alike or opposite? Tokens two apart are always
alike, in each stretch of four with a sign of its own, so that a grid with every second
token cannot tell. 8 x 8 tokens, groups of 4 x 4, four layers (two of the paper's
blocks have as many attentions), 32 wide, 400 steps.

  python -m experiments.claims maxvit

Not measured yet: thresholds, sizes and times were set before any whole run.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.variants.local import maxvit
from experiments.evidence import Claim, at_least, at_most, reported
from experiments.vision_claims import answers, jitted, mechanism, seconds, train

SIDE, PATCH, GROUP, COLOUR, NOISE = 8, 2, 4, 3.0, 0.3
TRAINING = {"channels": 2, "classes": 4, "patch": PATCH, "depth": 4, "steps": 400}
WIDTH, SIDES = 64, (32, 64)


def claims() -> Iterator[Claim]:
  short, long = (_time(side) for side in SIDES)
  yield at_most(
    "time of windows and grids, 32^2 to 64^2 tokens: times", long / short, 6
  )
  options = {"head_dim": 8, "size": GROUP}
  points = _points(mechanism("maxvit", **options))
  yield at_least("per cent right, windows and grids in turn", points[0], 95)
  whole = _points(mechanism("maxvit", **options, kind="window"))[1]
  yield at_most("per cent right about the whole, windows alone", whole, 60)
  texture = _points(mechanism("maxvit", **options, kind="grid"))[2]
  yield at_most("per cent right about the texture, grids alone", texture, 60)
  points = _points(mechanism("dot_product", heads=4, rope_theta=0.0))
  yield reported("per cent right, softmax attention", points[0])


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Images (B, 16, 16, 2), and 2 (corners are the same) + (neighbours are alike)."""
  keys = jax.random.split(key, 4)
  colours = jax.random.rademacher(keys[0], (number, 2), jnp.float32)
  corners = jnp.zeros((number, SIDE, SIDE))
  corners = corners.at[:, :2, :2].set(colours[:, :1, None])
  corners = corners.at[:, -2:, -2:].set(colours[:, 1:, None])
  sign = jax.random.rademacher(keys[1], (number, SIDE, SIDE // GROUP), jnp.float32)
  alike = jax.random.rademacher(keys[2], (number,), jnp.float32)
  odd = jnp.arange(SIDE) % 2
  cells = jnp.repeat(sign, GROUP, axis=2)
  cells = cells * jnp.where(odd, alike[:, None], 1)[:, None]
  tokens = jnp.stack([COLOUR * corners, cells], axis=-1)
  image = tokens.repeat(PATCH, axis=1).repeat(PATCH, axis=2)
  image = image + NOISE * jax.random.normal(keys[3], image.shape)
  same = colours[:, 0] == colours[:, 1]
  return image, 2 * same.astype(jnp.int32) + (alike > 0)


def _points(build) -> tuple[float, float, float]:
  """Accuracy of both answers, of the whole and of the texture, in per cent."""
  model = train(build, draw, **TRAINING, batch=32)
  guessed, labels = answers(model, draw)
  right = guessed == labels, guessed // 2 == labels // 2, guessed % 2 == labels % 2
  both, whole, texture = (100 * float(part.mean()) for part in right)
  return both, whole, texture


def _time(side: int) -> float:
  """Seconds of both attentions for one image."""
  layers = [
    maxvit.Layer(WIDTH, head_dim=16, kind=kind, rngs=nnx.Rngs(0))
    for kind in ("window", "grid")
  ]
  x = jax.random.normal(jax.random.key(0), (1, side, side, WIDTH))
  return seconds(jitted(lambda layers, x: layers[1](layers[0](x)), layers, x), 5)
