"""HyperZ.Z.W: as good as larger residual networks; what its parts are worth.

Claimed (arXiv:2401.17948, abstract and sections 4 and 5): fewer parameters than
residual networks of the same accuracy; global branches and the slow neural loss raise
it; features stay near mean zero without parameters of normalisation.

The task: scikit-learn's handwritten digits, 8 x 8; 1000 to learn, 797 to be tested with
the statistics of those learnt. A Terminator of three blocks (12, 12 and 24 channels,
local kernels of 3, omega0 = 1) against a residual network of three blocks, 24 wide.
Both see the same 600 batches of 32; Adam at 5e-3; one seed. The means are those of what
the blocks normalise: the GELU behind it gives a standard normal a mean of 0.28.

What global branches and the slow loss add here is a few images, of one seed: for the
slow loss, which lost three after 400 steps, the number is only reported.

  python -m experiments.claims hyperzzw
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.variants.mixers import hyperzzw
from attnjax.variants.mixers.hyperzzw import standardise
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.fit import fit
from experiments.data import packaged

SIDE, CLASSES, LEARNT, BATCH, STEPS, RATE = 8, 10, 1000, 32, 600, 5e-3
SHAPE = {
  "factors": (12, 1, 2),
  "slow_depths": (2, 2, 2),
  "extras": (0, 0, 1),
  "dropout": (0.0, 0.0, 0.0),
  "kernels": (3, 3, 3, 3),
  "slow_width": 8,
  "local_width": 4,
  "score_width": 4,
  "omega0": 1.0,
}
WIDTH = 24  # of the residual network


def claims() -> Iterator[Bound]:
  learnt, new = _digits()
  # (the slow loss's weight, whether there are global branches)
  cases = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
  model: Any = hyperzzw.Terminator(
    channels=1, classes=CLASSES, size=SIDE, rngs=nnx.Rngs(0), **SHAPE
  )

  def ours(case):
    loss = functools.partial(_terminator_loss, case=case)
    trained = _trained(loss, model, learnt)
    return _tested(_terminator, _cut(trained, case), learnt, new)

  # One after the other, compiled once.
  right, means, bent = jax.jit(lambda cases: jax.lax.map(ours, cases))(cases)
  whole, local, loose = (100 * float(x) for x in right)
  peer: Any = _Residual(rngs=nnx.Rngs(0))
  peer_trained = _trained(_residual_loss, peer, learnt)
  theirs, *_ = jax.jit(lambda m: _tested(_residual, m, learnt, new))(peer_trained)
  yield at_least("accuracy on digits, per cent", whole, 95)
  ratio = _size(peer) / _size(model)
  yield at_least("parameters of the residual network, times as many", ratio, 2)
  yield at_least("points of accuracy above it", whole - 100 * float(theirs), -1)
  yield at_most("largest |mean| of a normalised channel", abs(means[0]).max(), 0.2)
  yield reported("largest |mean| of a block's features", abs(bent[0]).max())
  yield at_least("points that global branches add", whole - local, 0)
  yield reported("points that the slow loss adds", whole - loose)


def _digits():
  """Loads images (B, 8, 8, 1) and labels to learn from, and others."""
  path = "datasets/data/digits.csv.gz"
  file = packaged.find("sklearn", path, install="scikit-learn")
  table = np.random.default_rng(0).permutation(np.loadtxt(file, delimiter=","))
  images = jnp.float32(table[:, :-1].reshape(-1, SIDE, SIDE, 1) / 16)
  labels = jnp.int32(table[:, -1])
  return (images[:LEARNT], labels[:LEARNT]), (images[LEARNT:], labels[LEARNT:])


def _trained(loss: Callable, model, learnt):
  def draw(model, key):
    chosen = jax.random.randint(key, (BATCH,), 0, LEARNT)
    return loss(model, *(x[chosen] for x in learnt))

  schedule = optax.warmup_cosine_decay_schedule(0, RATE, STEPS // 10, STEPS)
  return fit(draw, model, steps=STEPS, optimizer=optax.adam(schedule))


def _tested(run: Callable, model, learnt, new):
  """Returns (accuracy, means of normalised channels, means of blocks) on new images."""
  kept = hyperzzw.Statistics()
  run(model, learnt[0], kept)
  logits, *means = run(model, new[0], hyperzzw.Statistics(kept.seen))
  return (logits.argmax(-1) == new[1]).mean(), *means


def _terminator(model, images, pool):
  """Returns (logits, means of normalised channels, means of blocks)."""
  x, maps, means = images, [], []
  for i, (block, extra) in enumerate(zip(model.blocks, model.extras)):
    y, _ = block.branches(x, [maps[i - 2 - n] for n in range(extra)], pool)
    y = hyperzzw.gibs(y, pool)
    means.append(y.mean(axis=(0, 1, 2)))
    x = jax.nn.gelu(y, approximate=False) + block.bias[...]
    maps.append(x)
  bent = jnp.stack([x.mean() for x in maps])
  return model.head(x.mean(axis=(1, 2))), jnp.concatenate(means), bent


def _residual(model, images, pool):
  return (model(images, pool),)


def _terminator_loss(model, images, labels, *, case):
  logits, kernels = _cut(model, case)(images)
  return hyperzzw.terminator_loss(logits, labels, kernels, weight=case[0])


def _cut(model, case):
  """Scales the slow net's output by case[1]; at 0 its global branches give nothing."""

  def cut(path, leaf):
    slow = ".branches.slow.out." in jax.tree_util.keystr(path)
    return case[1] * leaf if slow else leaf

  return jax.tree_util.tree_map_with_path(cut, model)


def _residual_loss(model, images, labels):
  return hyperzzw.terminator_loss(model(images), labels, [])


class _Residual(nnx.Module):
  def __init__(self, *, rngs: nnx.Rngs):
    def conv(inputs):
      return nnx.Conv(inputs, WIDTH, (3, 3), use_bias=False, rngs=rngs)

    self.stem = conv(1)
    self.convs = nnx.List(conv(WIDTH) for _ in range(6))
    self.scales = nnx.Param(jnp.ones((6, WIDTH)))
    self.shifts = nnx.Param(jnp.zeros((6, WIDTH)))
    self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

  def __call__(self, images, pool=standardise.of_batch):
    x = self.stem(images)
    for i in (0, 2, 4):
      y = self.convs[i](self._bend(x, i, pool))
      x = x + self.convs[i + 1](self._bend(y, i + 1, pool))
    return self.head(x.mean(axis=(1, 2)))

  def _bend(self, x, i, pool):
    y = standardise.batch(x, pool)
    return nnx.relu(self.scales[i] * y + self.shifts[i])


def _size(model) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(model))
