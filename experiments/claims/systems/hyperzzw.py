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
global branches. A margin of one point is the catalogue's.

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
from experiments.claims import rows
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
  """images -> (logits, slow kernels, feature maps), with parts left out.

  Args:
    slow: whether kernels are returned, for the slow neural loss.
    everywhere: whether there are global branches.
    normalised: whether blocks are normalised.
    rngs: for the parameters.
  """

  def __init__(self, *, slow=True, everywhere=True, normalised=True, rngs: nnx.Rngs):
    self.net = hyperzzw.Terminator(
      channels=1, classes=CLASSES, size=SIDE, rngs=rngs, **SHAPE
    )
    self.slow, self.everywhere, self.normalised = slow, everywhere, normalised

  def __call__(self, images):
    net = self.net if self.everywhere else _local(self.net)
    run = net.features if self.normalised else functools.partial(_loose, net)
    maps, kernels = run(images)
    return net.logits(maps), kernels if self.slow else [], maps


class _Residual(nnx.Module):
  """images -> (logits, no kernels, feature maps): three pre-activation blocks."""

  def __init__(self, *, rngs: nnx.Rngs):
    def conv(inputs):
      return nnx.Conv(inputs, WIDTH, (3, 3), use_bias=False, rngs=rngs)

    self.stem = conv(1)
    self.convs = nnx.List(conv(WIDTH) for _ in range(6))
    self.scales = nnx.Param(jnp.ones((6, WIDTH)))
    self.shifts = nnx.Param(jnp.zeros((6, WIDTH)))
    self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

  def __call__(self, images):
    x, maps = self.stem(images), []
    for i in (0, 2, 4):
      y = self.convs[i](self._bend(x, i))
      x = x + self.convs[i + 1](self._bend(y, i + 1))
      maps.append(x)
    return self.head(x.mean(axis=(1, 2))), [], maps

  def _bend(self, x, i):
    return nnx.relu(self.scales[i] * standardise.batch(x) + self.shifts[i])


def _local(net):
  """Returns the network with slow nets that give 0, and so no global branches."""

  def cut(path, leaf):
    slow = ".branches.slow.out." in jax.tree_util.keystr(path)
    return jnp.zeros_like(leaf) if slow else leaf

  return jax.tree_util.tree_map_with_path(cut, net)


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
  found = [one for split in data.SPLITS for one in _all(task.source(split))]
  return {name: np.stack([one[name] for one in found]) for name in ("image", "label")}


def _all(source):
  return (source[i] for i in range(len(source)))


@functools.cache
def examples(seed, split):
  order = np.random.default_rng(seed).permutation(len(_digits()["label"]))
  chosen = order[slice(*EDGES[split])]
  return {name: array[chosen] for name, array in _digits().items()}


def _loss(call, batch):
  logits, kernels, _ = call(batch["image"])
  return hyperzzw.terminator_loss(logits, batch["label"], kernels)


def _accuracy(call, batch):
  return 100 * (call(batch["image"])[0].argmax(-1) == batch["label"]).mean()


def _mean(call, batch):
  means = jnp.stack([x.mean() for x in call(batch["image"])[2]])
  largest = abs(means).max()
  return jnp.where(largest < LARGEST, largest, LARGEST)  # NaN is not below


ACCURACY = small.Problem(examples, _loss, _accuracy)
MEANS = small.Problem(examples, _loss, _mean)


def _row(name, kind, net, problem=ACCURACY, steps=STEPS):
  recipe = small.Recipe(steps=steps, decay=0.0)
  return rows.trained(name, kind, lambda key: net(rngs=nnx.Rngs(key)), problem, recipe)


def _bound(runs):
  return [Score(BOUND, BOUND, 0) for _ in runs]


_part = functools.partial
_DIGITS = (
  _row("Terminator", "mechanism", _Terminator),
  _row("without it", "without", _part(_Terminator, everywhere=False)),
  _row("residual network", "baseline", _Residual),
  _row("no slow loss", "rival", _part(_Terminator, slow=False)),
  _row("untrained", "broken", _Terminator, steps=0),
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
      _row("Terminator", "mechanism", _Terminator, MEANS),
      _row("without it", "without", _part(_Terminator, normalised=False), MEANS),
      _row("residual network", "baseline", _Residual, MEANS),
      Row("the bound", "rival", _bound),
      _row("untrained", "broken", _Terminator, MEANS, steps=0),
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
