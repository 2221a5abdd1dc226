"""DuoFormer: fine maps, seen through scale tokens, tell what the coarse one does not.

Claimed (arXiv:2506.12982): attention across the scales of each place, before attention
between the places, classifies better than attention between the places of the
coarsest map alone.

The task: grey images of 32 x 32 in noise. A quarter may hold a disc and a round patch
of fine stripes, each with a chance of 0.71, the patch where the disc would be; which
quarters hold both? Three convolutions of stride 2 give the maps of 16, 8 and 4 cells a
side. They are drawn and not trained, as the authors' are frozen; their results are
normalised as those are, by the images at hand. The encoder is 32 wide, two blocks of
each kind, pre-norm patch blocks. Without the finer maps the lists have one token, and
the encoder is otherwise the same. 400 steps of 32 images. The coarsest map alone is
slower to learn from, so that it also gets three times the steps.

All matrices begin with a spread for 32 channels: with the official one, for 768, and
images of 56 x 56 neither form learned anything in 300 steps.

  python -m experiments.claims duoformer

It takes a minute and a half on 2 cores.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.variants.local import duoformer
from experiments.claims.bounds import Bound, at_least, reported
from experiments.claims.fit import fit, spread

SIDE, RADIUS, NOISE, STRIPES, CHANCE = 32, 5, 0.8, 1.0, 0.5**0.5
CHANNELS, DIM, HEADS, DEPTH = (16, 32, 64), 32, 4, 2
CELLS = SIDE >> len(CHANNELS)  # of the coarsest map, on each axis
STEPS, BATCH, RATE = 400, 32, 3e-3


def claims() -> Iterator[Bound]:
  coarse, longer = (_points(1, steps) for steps in (STEPS, 3 * STEPS))
  every = _points(3, STEPS)
  yield reported("per cent right, the coarsest map alone", coarse)
  yield reported("the same after three times the steps", longer)
  yield at_least("per cent right, all scales", every, 95)
  yield at_least("points that the scales gain", every - coarse, 3)
  yield at_least("points above three times the steps", every - longer, 3)


class Net(nnx.Module):
  """Scale tokens, the encoder, and a linear head with a logit for each quarter."""

  def __init__(self, scales: int, *, rngs: nnx.Rngs):
    self.projections = nnx.List(
      nnx.Linear(width, DIM, rngs=rngs) for width in CHANNELS[::-1][:scales]
    )
    self.token = nnx.Param(0.036 * jax.random.normal(rngs.params(), (DIM,)))
    count = 1 if scales == 1 else 1 + sum(4**number for number in range(scales))
    self.encoder = duoformer.Encoder(
      DIM,
      heads=HEADS,
      depth=DEPTH,
      tokens=count,
      grid=(CELLS, CELLS),
      mlp_ratio=2.0,
      impl="reference",
      rngs=rngs,
    )
    self.head = nnx.Linear(DIM, 4, rngs=rngs)
    self.scales = scales

  def __call__(self, maps):
    """Returns the logits (B, 4); `maps` go from fine to coarse."""
    parts = [project(x) for project, x in zip(self.projections, maps[::-1])]
    lists = duoformer.scale_tokens(parts)
    if self.scales > 1:
      first = jnp.broadcast_to(self.token[...], (*lists.shape[:2], 1, DIM))
      lists = jnp.concatenate([first, lists], axis=2)
    return self.head(self.encoder(lists, maps[-1].shape[1:3]))


class Backbone(nnx.Module):
  """Three convolutions of stride 2, each normalised."""

  def __init__(self, *, rngs: nnx.Rngs):
    below = (1, *CHANNELS)
    self.convolutions = nnx.List(
      nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in zip(below, CHANNELS)
    )

  def __call__(self, x):
    """Returns the maps, from fine to coarse."""
    maps = []
    for part in self.convolutions:
      x = part(x)
      x = jax.nn.relu((x - x.mean((0, 1, 2))) / x.std((0, 1, 2)))
      maps.append(x)
    return maps


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Draws images (B, 32, 32, 1), and 1 for each quarter that holds both (B, 4)."""
  keys = jax.random.split(key, 4)
  spot = jax.random.randint(keys[0], (number, 4, 2), RADIUS, SIDE // 2 - RADIUS + 1)
  corner = jnp.stack(jnp.divmod(jnp.arange(4), 2), axis=-1) * (SIDE // 2)
  disc, fine = jax.random.bernoulli(keys[1], CHANCE, (2, number, 4, 1, 1))
  wave = jnp.where(jnp.arange(SIDE) % 2, 1.0, -1.0)
  upright = jax.random.bernoulli(keys[2], 0.5, (number, 4, 1, 1))
  stripes = STRIPES * jnp.where(upright, wave[None, :], wave[:, None])
  image = (_discs(corner + spot) * (disc + fine * stripes)).sum(axis=1)
  image = image + NOISE * jax.random.normal(keys[3], image.shape)
  return image[..., None], (disc & fine)[..., 0, 0].astype(jnp.int32)


def _discs(centres):
  line = jnp.arange(SIDE)
  rows, columns = (line - centres[..., axis, None] for axis in (0, 1))
  far = rows[..., :, None] ** 2 + columns[..., None, :] ** 2
  return (far <= RADIUS**2).astype(jnp.float32)


def _points(scales: int, steps: int) -> float:
  """Trains a net; returns per cent of right answers."""
  backbone = Backbone(rngs=nnx.Rngs(1))

  def loss(model, key):
    images, labels = draw(key, BATCH)
    return optax.sigmoid_binary_cross_entropy(model(backbone(images)), labels).mean()

  rate = optax.cosine_onecycle_schedule(steps, RATE)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
  model = jax.tree.map(_spread, Net(scales, rngs=nnx.Rngs(0)))
  model = fit(loss, model, steps=steps, optimizer=optimizer)

  @jax.jit
  def right(model, key):
    images, labels = draw(key, 100)
    return ((model(backbone(images)) > 0) == labels).mean()

  keys = jax.random.split(jax.random.key(10**6), 20)
  return 100 * float(np.mean([right(model, key) for key in keys]))


def _spread(weight: jax.Array) -> jax.Array:
  """Rescales a matrix or table to one spread; other weights stay as they are."""
  return weight if weight.ndim < 2 else spread(weight, DIM)
