"""DuoFormer: fine maps, seen through scale tokens, tell what the coarse one does not.

Claimed (arXiv:2506.12982): attention across the scales of each place, before attention
between the places, classifies better than attention between the places of the
coarsest map alone.

The task: grey images of 56 x 56 with two large discs and a patch of fine stripes, of a
disc's size; is the patch on a disc? Three convolutions of stride 2 give the maps of 28,
14 and 7 cells a side and are trained with the encoder: 32 wide, two blocks of each
kind, pre-norm patch blocks. Without the finer maps the lists have one token, and the
encoder is otherwise the same. 600 steps of 16 images.

  python -m experiments.claims duoformer

Not measured yet: thresholds, sizes and times were set before any whole run.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.variants.local import duoformer
from experiments.evidence import Claim, at_least, fit, reported

SIDE, RADIUS, NOISE, STRIPES = 56, 8, 0.5, 0.5
CHANNELS, DIM, HEADS, DEPTH = (16, 32, 64), 32, 4, 2
STEPS, BATCH, RATE = 600, 16, 2e-3


def claims() -> Iterator[Claim]:
  coarse, all_scales = (_points(scales) for scales in (1, 3))
  yield reported("per cent right, the coarsest map alone", coarse)
  yield reported("per cent right, all scales", all_scales)
  yield at_least("points that the scales gain", all_scales - coarse, 3)


class Net(nnx.Module):
  """Three convolutions, lists of as many scales, the encoder, a linear head."""

  def __init__(self, scales: int, *, rngs: nnx.Rngs):
    below = (1, *CHANNELS)
    self.convolutions = nnx.List(
      nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in zip(below, CHANNELS)
    )
    self.projections = nnx.List(
      nnx.Linear(width, DIM, rngs=rngs) for width in CHANNELS[::-1][:scales]
    )
    self.token = nnx.Param(0.036 * jax.random.normal(rngs.params(), (DIM,)))
    count = 1 if scales == 1 else 1 + sum(4**number for number in range(scales))
    self.encoder = duoformer.Encoder(
      DIM, heads=HEADS, depth=DEPTH, tokens=count, rngs=rngs
    )
    self.head = nnx.Linear(DIM, 2, rngs=rngs)
    self.scales = scales

  def __call__(self, x):
    """Logits of "apart" and "together"."""
    maps = []
    for part in self.convolutions:
      x = jax.nn.relu(part(x))
      maps.append(x)
    parts = [project(x) for project, x in zip(self.projections, maps[::-1])]
    lists = duoformer.scale_tokens(parts)
    if self.scales > 1:
      first = jnp.broadcast_to(self.token[...], (*lists.shape[:2], 1, DIM))
      lists = jnp.concatenate([first, lists], axis=2)
    return self.head(self.encoder(lists, maps[-1].shape[1:3]))


def draw(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Images (B, 56, 56, 1), and 1 where the stripes are on a disc."""
  keys = jax.random.split(key, 5)
  # Centres in three of the four quarters, so that nothing overlaps.
  quarter = jax.random.uniform(keys[0], (number, 4)).argsort(axis=-1)[:, :3]
  spot = jax.random.randint(keys[1], (number, 3, 2), RADIUS, SIDE // 2 - RADIUS + 1)
  corner = jnp.stack([quarter // 2, quarter % 2], axis=-1) * (SIDE // 2)
  round_ = _discs(corner + spot)  # (B, 3, S, S)
  together = jax.random.bernoulli(keys[2], 0.5, (number,))
  wave = jnp.where(jnp.arange(SIDE) % 2, 1.0, -1.0)
  upright = jax.random.bernoulli(keys[3], 0.5, (number, 1, 1))
  stripes = STRIPES * jnp.where(upright, wave[None, :], wave[:, None])
  place = jnp.where(together[:, None, None], round_[:, 0], round_[:, 2])
  image = round_[:, 0] + round_[:, 1] + stripes * place
  image = image + NOISE * jax.random.normal(keys[4], image.shape)
  return image[..., None], together.astype(jnp.int32)


def _discs(centres):
  line = jnp.arange(SIDE)
  rows, columns = (line - centres[..., axis, None] for axis in (0, 1))
  far = rows[..., :, None] ** 2 + columns[..., None, :] ** 2
  return (far <= RADIUS**2).astype(jnp.float32)


def _points(scales: int) -> float:
  """Per cent of right answers of a trained net."""

  def loss(model, key):
    images, labels = draw(key, BATCH)
    logits = model(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  rate = optax.cosine_onecycle_schedule(STEPS, RATE)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
  model = Net(scales, rngs=nnx.Rngs(0))
  model = fit(loss, model, steps=STEPS, optimizer=optimizer)

  @jax.jit
  def right(model, key):
    images, labels = draw(key, 100)
    return (model(images).argmax(-1) == labels).mean()

  keys = jax.random.split(jax.random.key(10**6), 20)
  return 100 * float(np.mean([right(model, key) for key in keys]))
