"""HyperZ.Z.W: as good as larger residual networks; what its parts are worth.

Claimed (arXiv:2401.17948, abstract and sections 4 and 5): fewer parameters than
residual networks of the same accuracy; global branches and the slow neural loss raise
it; features stay near mean zero without parameters of normalisation.

Digits: scikit-learn's 1,797 images, 8 x 8, of which the seed chooses 1,000 to learn,
297 to validate and 500 to test. A Terminator of three blocks (12, 12 and 24 channels,
local kernels of 3, omega0 = 1 in place of the published 2,000, which is for 32 x 32
pixels) against a residual network of three blocks 24 wide, which has over twice the
parameters; 300 steps of 32. Both normalise by the batch, in tests by all test images,
as the official code does. "Without it" the slow net's kernels are 0, and with them the
global branches. A margin of one point is the catalogue's. The loss is the official
one: smoothed labels, the slow neural loss, norms of weights.

Means: the largest |mean| of a block's features, over images, pixels and channels. The
catalogue asked for less than 0.2; an earlier measurement found 0.49 and asked for the
mean of the normalised channels before their GELU instead, which is near 0 by
construction. This is the first claim again. "Without it" here is without the
normalisation of blocks, G-IBS; a mean counts as 10 at most.

  python -m experiments.claims hyperzzw

About 300 s of one core.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers import hyperzzw
from attnjax.variants.mixers.hyperzzw import standardise
from experiments import data, small
from experiments.claims.claim import NotTestable, Quality, Row, Score

SIDE, CLASSES, WIDTH, STEPS = 8, 10, 24, 300
EDGES = {"train": (0, 1000), "validation": (1000, 1297), "test": (1297, 1797)}
BOUND, LARGEST = 0.2, 10.0
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


class _Terminator(nnx.Module):
  """(images, parts (B, 2)) -> (logits, losses of weights, feature maps).

  The two parts are factors, alike in a batch: of the slow neural loss, and of the slow
  nets whose kernels the global branches take. One program learns with and without.
  """

  def __init__(self, *, normalised=True, rngs: nnx.Rngs):
    self.net = hyperzzw.Terminator(
      channels=1, classes=CLASSES, size=SIDE, rngs=rngs, **SHAPE
    )
    self.normalised = normalised

  def __call__(self, images, parts):
    slow, everywhere = parts[0]
    net = scaled(self.net, everywhere)
    run = net.features if self.normalised else functools.partial(_loose, net)
    maps, kernels = run(images)
    penalties = slow * hyperzzw.slow_neural_loss(kernels) + hyperzzw.weight_norms(net)
    return net.logits(maps), penalties, maps


class _Residual(nnx.Module):
  """(images, _) -> (logits, 0, feature maps): three pre-activation blocks."""

  def __init__(self, *, rngs: nnx.Rngs):
    def conv(inputs):
      return nnx.Linear(9 * inputs, WIDTH, use_bias=False, rngs=rngs)

    self.stem = conv(1)
    self.convs = nnx.List(conv(WIDTH) for _ in range(6))
    self.scales = nnx.Param(jnp.ones((6, WIDTH)))
    self.shifts = nnx.Param(jnp.zeros((6, WIDTH)))
    self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

  def __call__(self, images, parts):
    del parts
    x, maps = self.stem(around(images)), []
    for i in (0, 2, 4):
      y = self.convs[i](around(self._bend(x, i)))
      x = x + self.convs[i + 1](around(self._bend(y, i + 1)))
      maps.append(x)
    return self.head(x.mean(axis=(1, 2))), 0.0, maps

  def _bend(self, x, i):
    return nnx.relu(self.scales[i] * standardise.batch(x) + self.shifts[i])


def around(x):
  """Returns the 3 x 3 pixels around each pixel, (B, H, W, 9 C), 0 outside.

  A linear map of them is a convolution. XLA's own are slow in loops on CPUs.
  """
  H, W = x.shape[1:3]
  wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  parts = [wide[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
  return jnp.concatenate(parts, axis=-1)


def scaled(net, factor):
  """Returns the network with the slow nets of its global branches times a factor."""

  def scale(path, leaf):
    slow = ".branches.slow.out." in jax.tree_util.keystr(path)
    return factor * leaf if slow else leaf

  return jax.tree_util.tree_map_with_path(scale, net)


def _loose(net, images):
  """Returns the maps and kernels of blocks that are not normalised."""
  x, maps, kernels = images, [], []
  for i, (block, extra) in enumerate(zip(net.blocks, net.extras)):
    y, kernel = block.branches(x, [maps[i - 2 - n] for n in range(extra)])
    x = jax.nn.gelu(y, approximate=False) + block.bias[...]
    maps.append(x)
    kernels.append(kernel)
  return maps, kernels


@functools.cache
def _digits():
  """Returns all images (1797, 8, 8, 1) and labels, in one order."""
  task = data.load("digits")
  sources = [task.source(split) for split in data.SPLITS]
  found = [source[i] for source in sources for i in range(len(source))]
  return {name: np.stack([one[name] for one in found]) for name in ("image", "label")}


def examples(seed, split, slow=1.0, everywhere=1.0):
  """Returns the seed's digits of a split, and the factors of parts with each."""
  order = np.random.default_rng(seed).permutation(len(_digits()["label"]))
  chosen = order[slice(*EDGES[split])]
  found = {name: array[chosen] for name, array in _digits().items()}
  parts = np.tile(np.array([slow, everywhere], np.float32), (len(chosen), 1))
  return found | {"parts": parts}


def _loss(call, batch):
  logits, penalties, _ = call(batch["image"], batch["parts"])
  return hyperzzw.terminator_loss(logits, batch["label"], []) + penalties


def _accuracy(call, batch):
  logits, *_ = call(batch["image"], batch["parts"])
  return 100 * (logits.argmax(-1) == batch["label"]).mean()


def _mean(call, batch):
  maps = call(batch["image"], batch["parts"])[2]
  largest = abs(jnp.stack([x.mean() for x in maps])).max()
  return jnp.where(largest < LARGEST, largest, LARGEST)  # NaN is not below


def _builder(net, **options):
  return lambda key: net(rngs=nnx.Rngs(key), **options)


@functools.cache
def _problem(parts, score):
  return small.Problem(lambda *which: examples(*which, *parts), _loss, score)


@functools.cache
def _trained(build, parts, rate, seed):
  # Accuracy and means are of one model.
  recipe = small.Recipe(steps=STEPS, decay=0.0)
  return small.train(build, _problem(parts, _accuracy), recipe, [(rate, seed)])


def _row(name, kind, build, *, score=_accuracy, slow=1.0, everywhere=1.0, rate=None):
  """Returns a row; with a rate of 0 models stay as they are drawn."""
  parts = slow, everywhere
  problem = _problem(parts, score)

  def one(run):
    found = _trained(build, parts, run[0] if rate is None else rate, run[1])
    held, test = (small.scores(found, problem, [run], s)[0] for s in data.SPLITS[1:])
    return Score(test, held, found.parameters)

  return Row(name, kind, lambda runs: [one(run) for run in runs])


WHOLE, RESIDUAL = _builder(_Terminator), _builder(_Residual)
NOT_NORMALISED = _builder(_Terminator, normalised=False)
_DIGITS = (
  _row("Terminator", "mechanism", WHOLE),
  _row("without it", "without", WHOLE, everywhere=0.0),
  _row("residual network", "baseline", RESIDUAL),
  _row("no slow loss", "rival", WHOLE, slow=0.0),
  _row("untrained", "broken", WHOLE, rate=0.0),
)

CLAIMS = (
  Quality(
    sentence="As accurate as a residual network of twice the parameters, within 1.",
    source="abstract",
    unit="per cent",
    better="more",
    rows=_DIGITS,
    against="residual network",
    margin=-1.0,
  ),
  Quality(
    sentence="The slow neural loss raises the accuracy.",
    source="section 5",
    unit="per cent",
    better="more",
    rows=_DIGITS,
    against="no slow loss",
    margin=0.0,
  ),
  Quality(
    sentence="The mean of a block's features stays below 0.2.",
    source="abstract and section 4; the bound is the catalogue's",
    unit="of mean",
    better="less",
    rows=(
      _row("Terminator", "mechanism", WHOLE, score=_mean),
      _row("without it", "without", NOT_NORMALISED, score=_mean),
      _row("residual network", "baseline", RESIDUAL, score=_mean),
      Row("the bound", "rival", lambda runs: [Score(BOUND, BOUND, 0)] * len(runs)),
      _row("untrained", "broken", WHOLE, score=_mean, rate=0.0),
    ),
    against="the bound",
    margin=0.0,
  ),
  NotTestable(
    sentence="State of the art on images as sequences of pixels, CIFAR-10 and others.",
    source="section 5",
    reason="networks of millions of parameters and hundreds of epochs",
  ),
)
