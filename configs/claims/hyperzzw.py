"""HyperZ.Z.W: as good as larger residual networks; what its parts are worth.

Claimed (arXiv:2401.17948, abstract and sections 4 and 5): fewer parameters than
residual networks of the same accuracy; global branches and the slow neural loss raise
it; features stay near mean zero without parameters of normalisation.

  python -m experiments.claims hyperzzw

Measured: accuracy, parameters and |mean| do not hold; 300 steps, chosen for their time,
leave the model at 0.50.

The images are 12 x 12 with one of six shapes (disc, square, diamond, cross, ring,
frame) of any colour and place in noise. A Terminator of three blocks, 3 to 24
channels, against a residual network of three blocks with batch statistics; both learn
from the same 300 batches of 16 with Adam and are tested on other images, in
batches of 16; one seed.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attnjax.variants.mixers import hyperzzw
from attnjax.variants.mixers.hyperzzw import standardise
from experiments.evidence import Claim, at_least, at_most, fit, reported

SIDE, CLASSES, BATCH, STEPS, RATE, SEEDS = 12, 6, 16, 300, 3e-3, (0,)
SHAPE = {
  "factors": (4, 2, 1),
  "slow_depths": (2, 2, 2),
  "extras": (0, 0, 1),
  "dropout": (0.0, 0.0, 0.0),
  "kernels": (3, 5, 5, 7),
  "slow_width": 16,
  "local_width": 8,
  "score_width": 8,
  "omega0": 1.0,
}
WIDTH = 32  # of the residual network


def claims() -> Iterator[Claim]:
  make = functools.partial(hyperzzw.Terminator, classes=CLASSES, size=SIDE, **SHAPE)
  ours, models = _accuracy(make, _terminator_loss)
  theirs, peers = _accuracy(_Residual, _residual_loss)
  yield at_least("accuracy on shapes", ours, 0.9)
  ratio = _size(peers) / _size(models)
  yield at_least("parameters of the residual network, times as many", ratio, 2)
  yield at_least("points of accuracy above it", 100 * (ours - theirs), -1)
  means = [float(abs(m.mean(axis=(1, 2, 3, 4))).max()) for m in _maps(models)]
  yield at_most("largest |mean| of a block's features", max(means), 0.2)
  local, _ = _accuracy(make, functools.partial(_terminator_loss, whole=False))
  yield at_least("points that global branches add", 100 * (ours - local), 0)
  loose, _ = _accuracy(make, functools.partial(_terminator_loss, weight=0.0))
  yield reported("points that the slow loss adds", 100 * (ours - loose))


def _accuracy(make: Callable, loss: Callable):
  """(accuracy on new images, the trained models of all seeds, stacked)."""
  models = [make(rngs=nnx.Rngs(seed)) for seed in SEEDS]
  models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
  schedule = optax.warmup_cosine_decay_schedule(0, RATE, 50, STEPS)

  def measure(models, key):
    return jax.vmap(lambda model: loss(model, *_images(key)))(models)

  # Adam works on each number by itself: the models learn as if alone.
  models = fit(
    lambda models, key: measure(models, key)[0].sum(),
    models,
    steps=STEPS,
    optimizer=optax.adam(schedule),
  )
  keys = jax.random.split(jax.random.key(99), 2048 // BATCH)
  run = jax.jit(lambda models: jax.lax.map(lambda k: measure(models, k)[1], keys))
  return float(run(models).mean()), models


def _terminator_loss(model, images, labels, *, weight=1.0, whole=True):
  if not whole:
    model = jax.tree_util.tree_map_with_path(_without_kernel, model)
  logits, kernels = model(images)
  loss = hyperzzw.terminator_loss(logits, labels, kernels, weight=weight)
  return loss, (logits.argmax(-1) == labels).mean()


def _without_kernel(path, leaf):
  """The slow net's output 0: its global branches give nothing."""
  return 0 * leaf if ".branches.slow.out." in jax.tree_util.keystr(path) else leaf


def _residual_loss(model, images, labels):
  logits = model(images)
  loss = hyperzzw.terminator_loss(logits, labels, [])
  return loss, (logits.argmax(-1) == labels).mean()


class _Residual(nnx.Module):
  def __init__(self, *, rngs: nnx.Rngs):
    def conv(inputs):
      return nnx.Conv(inputs, WIDTH, (3, 3), use_bias=False, rngs=rngs)

    self.stem = conv(3)
    self.convs = nnx.List(conv(WIDTH) for _ in range(6))
    self.scales = nnx.Param(jnp.ones((6, WIDTH)))
    self.shifts = nnx.Param(jnp.zeros((6, WIDTH)))
    self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

  def __call__(self, images):
    x = self.stem(images)
    for i in (0, 2, 4):
      y = self.convs[i](self._bend(x, i))
      x = x + self.convs[i + 1](self._bend(y, i + 1))
    return self.head(x.mean(axis=(1, 2)))

  def _bend(self, x, i):
    return nnx.relu(self.scales[i] * standardise.batch(x) + self.shifts[i])


def _images(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(BATCH, SIDE, SIDE, 3) images and their classes."""
  keys = jax.random.split(key, 6)
  labels = jax.random.randint(keys[0], (BATCH,), 0, CLASSES)
  radius = jax.random.uniform(keys[1], (BATCH, 1, 1), minval=2.5, maxval=4.0)
  centre = jax.random.uniform(keys[2], (2, BATCH, 1, 1), minval=4.0, maxval=7.0)
  place = jnp.arange(SIDE)
  x, y = abs(place - centre[0]), abs(place[:, None] - centre[1])
  near, far, round_ = jnp.minimum(x, y), jnp.maximum(x, y), jnp.hypot(x, y)
  thick = radius - 1.4
  shapes = (
    round_ <= radius,
    far <= radius * math.pi**0.5 / 2,  # of a disc's area
    x + y <= radius * (math.pi / 2) ** 0.5,
    (near <= 0.8) & (far <= radius),
    (round_ <= radius) & (round_ >= thick),
    (far <= radius) & (far >= thick),
  )
  shape = jnp.stack(shapes)[labels, jnp.arange(BATCH)]
  colour = jax.random.normal(keys[3], (BATCH, 1, 1, 3))
  colour /= jnp.linalg.norm(colour, axis=-1, keepdims=True)
  noise = jax.random.normal(keys[4], (BATCH, SIDE, SIDE, 3))
  return 1.5 * shape[..., None] * colour + 0.4 * noise, labels


def _maps(models):
  images, _ = _images(jax.random.key(7))
  return jax.jit(jax.vmap(lambda model: model.features(images)[0]))(models)


def _size(models) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(models))
