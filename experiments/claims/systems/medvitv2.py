"""MedViTV2: what a KAN of bumps can do and cannot, and what dilation sees.

Claimed (arXiv:2502.13693, abstract): KAN layers in place of MLPs, and dilated
neighbourhoods, raise the accuracy on medical images at less cost.

Functions: a sum of functions of single inputs, for which the KAN is made, y_o = sum_i
A_oi sin(2.5 x_i + phi_oi) / sqrt(32) of 32 normal inputs; and a smooth function of five
normal inputs that is no such sum, sin(2 x_0) cos(x_1) + tanh(x_2 x_3) + 0.3 x_4, of
which the catalogue says that the layer norm in front of the KAN takes the inputs' mean
and scale away. Of both it is claimed that the KAN errs less than an MLP with as many
parameters. Adam's batches are of 256 of 16384 points, 800 steps; the error is in powers
of two of the mean squared error. The margin of the first is the catalogue's 0.6 of the
MLP's error, log2(1 / 0.6) = 0.737; that of the second is zero.

Dilation: the data set `relation` in patches of 4 x 4 pixels, 4 x 4 tokens, which
asks whether two marks far apart are alike (`claims.tasks.relation`). Windows of 2 x 2,
two blocks 24 wide, 250 steps of 32: with dilations 1 and 2 every token sees the
whole map, as in softmax attention of all tokens; without dilation it sees 3 x 3 tokens,
which hold both marks of some images only. The margin of two points is ours.

  python -m experiments.claims medvitv2

About 150 s of one core.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import medvitv2
from experiments import data, small
from experiments.claims import rows
from experiments.claims.claim import NotTestable, Quality
from experiments.claims.tasks import relation

INPUTS, OUTPUTS, TRAIN, HELD_OUT = 32, 4, 16_384, 8192
RECIPE = small.Recipe(steps=800, batch=256, decay=0.0)
SLUG, HEADS = "medvitv2", 4
DENSE = ("dot_product", {"heads": HEADS, "rope_theta": 0.0})


class _Perceptron(nnx.Module):
  """Linear layers with GELU between them."""

  def __init__(self, features, *, rngs: nnx.Rngs):
    self.linears = nnx.List(
      nnx.Linear(below, dim, rngs=rngs) for below, dim in zip(features, features[1:])
    )

  def __call__(self, x):
    for linear in self.linears[:-1]:
      x = jax.nn.gelu(linear(x))
    return self.linears[-1](x)


def _drawn(draw):
  """Returns the problem of a function, drawn with a generator and a count."""

  @functools.cache
  def examples(seed, split):
    rng = np.random.default_rng([seed, data.SPLITS.index(split)])
    x, y = draw(rng, TRAIN if split == "train" else HELD_OUT)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}

  return small.Problem(examples, _error, lambda *given: jnp.log2(_error(*given)))


def _error(call, batch):
  return jnp.square(call(batch["x"]) - batch["y"]).mean()


def additive(rng, count):
  """Draws 32 normal inputs and four sums of a sine of each."""
  fixed = np.random.default_rng(7)
  height = fixed.standard_normal((OUTPUTS, INPUTS))
  phase = fixed.uniform(0, 2 * np.pi, (OUTPUTS, INPUTS))
  x = rng.standard_normal((count, INPUTS))
  waves = np.sin(2.5 * x[:, None] + phase)
  return x, (height * waves).sum(-1) / np.sqrt(INPUTS)


def mixed(rng, count):
  """Draws five normal inputs and a smooth function of them together."""
  x = rng.standard_normal((count, 5))
  y = np.sin(2 * x[:, 0]) * np.cos(x[:, 1]) + np.tanh(x[:, 2] * x[:, 3])
  return x, (y + 0.3 * x[:, 4])[:, None]


def _kan(*features):
  return lambda key: medvitv2.FasterKAN(features, rngs=nnx.Rngs(key))


def _silent(*features):
  """Returns a KAN's constructor whose result is zero."""

  class Silent(medvitv2.FasterKAN):
    def __call__(self, x):
      return jnp.zeros_like(super().__call__(x))

  return lambda key: Silent(features, rngs=nnx.Rngs(key))


def _mlp(*features):
  return lambda key: _Perceptron(features, rngs=nnx.Rngs(key))


def _functions(problem, kan, equal, others):
  """Returns the rows of a function: features of the KAN, and of MLPs by their names."""
  return (
    rows.trained("KAN", "mechanism", _kan(*kan), problem, RECIPE),
    rows.trained("without it", "without", _silent(*kan), problem, RECIPE),
    rows.trained("MLP as large", "baseline", _mlp(*equal), problem, RECIPE),
    *(
      rows.trained(name, "rival", _mlp(*features), problem, RECIPE)
      for name, features in others.items()
    ),
    rows.untrained("untrained KAN", _kan(*kan), problem),
  )


def _windows(*dilations):
  options = {"heads": HEADS, "window": 2}
  return [(SLUG, options | {"dilation": dilation}) for dilation in dilations]


CLAIMS = (
  Quality(
    sentence="A KAN errs less than an MLP as large on a sum of functions.",
    source="abstract; the task is ours",
    unit="powers of two",
    better="less",
    rows=_functions(
      _drawn(additive),
      (INPUTS, OUTPUTS),
      (INPUTS, 29, OUTPUTS),
      {"MLP four times as large": (INPUTS, 116, OUTPUTS)},
    ),
    against="MLP as large",
    margin=0.737,
  ),
  Quality(
    sentence="A KAN errs less than an MLP as large on a function that is no sum.",
    source="abstract; the task is ours",
    unit="powers of two",
    better="less",
    rows=_functions(
      _drawn(mixed),
      (5, 16, 1),
      (5, 110, 1),
      {"MLP of two layers as large": (5, 24, 24, 1)},
    ),
    against="MLP as large",
    margin=0.0,
  ),
  Quality(
    sentence="Dilated windows are more accurate than windows without dilation.",
    source="abstract; the task is the catalogue's",
    unit="share of images",
    better="more",
    rows=(
      relation.trained("dilations 1 and 2", "mechanism", _windows(1, 2)),
      relation.without("without it", _windows(1, 2)),
      relation.trained("softmax attention of all tokens", "baseline", [DENSE]),
      relation.trained("no dilation", "rival", _windows(1, 1)),
      relation.untrained("untrained", _windows(1, 2)),
    ),
    against="no dilation",
    margin=0.02,
  ),
  NotTestable(
    sentence="MedViTV2 is 4.6 % better than MedViT on MedMNIST, at 44 % less compute.",
    source="abstract",
    reason="no package has MedMNIST's images",
  ),
)
