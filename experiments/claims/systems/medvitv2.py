"""MedViTV2: what a KAN of bumps can do and cannot, and what dilation sees.

Claimed (arXiv:2502.13693): KAN layers in place of MLPs, and dilated neighbourhoods,
raise the accuracy at less cost.

Functions, Adam at 5e-3, 1500 steps of 256 points: a sum of functions of single inputs,
for which the KAN is made, y_o = sum_i A_oi sin(2.5 x_i + phi_oi) / sqrt(32) of 32
normal inputs; and as the limit a smooth function of five inputs that is no such sum,
sin(2 x_0) cos(x_1) + tanh(x_2 x_3) + 0.3 x_4: the layer norm in front takes the inputs'
mean and scale away, and equally large MLPs are better.

Dilation: tokens are asked what a mark says that is 4 columns and up to one row away
(`tasks.far_mark`). 8 x 8 tokens, two blocks of windows of 3 x 3: with dilations 1
and 3 all of them see the mark, without dilation none does.

  python -m experiments.claims medvitv2

It takes a minute and a half.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attnjax.variants.local import medvitv2
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.fit import fit
from experiments.claims.tasks import far_mark
from experiments.claims.vision import mechanism

INPUTS, OUTPUTS, STEPS, BATCH, RATE, TEST = 32, 4, 1500, 256, 5e-3, 20000
HEADS, FAR = 4, far_mark.Task(apart=4, within=4, rows=1)


def claims() -> Iterator[Bound]:
  kan = _error(_kan((INPUTS, OUTPUTS)), _additive)
  same = _error(_Perceptron((INPUTS, 29, OUTPUTS)), _additive)
  large = _error(_Perceptron((INPUTS, 116, OUTPUTS)), _additive)
  yield reported("squared error of a sum of functions, KAN", kan)
  yield reported("the same of an MLP four times as large", large)
  yield at_most("the KAN's error, of an equally large MLP's", kan / same, 0.6)
  kan = _error(_kan((5, 16, 1)), _mixed)
  yield reported("squared error of a function that is no sum, KAN", kan)
  for name, widths in (("one layer", (5, 110, 1)), ("two layers", (5, 24, 24, 1))):
    found = _error(_Perceptron(widths), _mixed)
    yield reported(f"the same of an MLP with {name} inside", found)
  yield at_most("per cent right of far marks, no dilation", _points(1, 1), 60)
  yield at_least("the same with dilations 1 and 3", _points(1, 3), 90)
  dense = mechanism("dot_product", heads=HEADS, rope_theta=0.0)
  dense = far_mark.accuracy(far_mark.train([dense], FAR), FAR)
  yield reported("the same, softmax attention", dense)


def _points(*dilations: int) -> float:
  """Trains one block for each dilation; returns per cent of right answers."""
  options = {"heads": HEADS, "window": 3}
  builds = [mechanism("medvitv2", **options, dilation=d) for d in dilations]
  model = far_mark.train(builds, FAR, depth=len(builds))
  return far_mark.accuracy(model, FAR)


def _kan(features: Sequence[int]) -> medvitv2.FasterKAN:
  return medvitv2.FasterKAN(features, rngs=nnx.Rngs(0))


class _Perceptron(nnx.Module):
  def __init__(self, features: Sequence[int]):
    rngs = nnx.Rngs(0)
    self.linears = nnx.List(
      nnx.Linear(below, dim, rngs=rngs) for below, dim in zip(features, features[1:])
    )

  def __call__(self, x):
    for linear in self.linears[:-1]:
      x = jax.nn.gelu(linear(x))
    return self.linears[-1](x)


def _additive(key, number):
  """Draws 32 normal inputs and four sums of a sine of each."""
  one, two = jax.random.split(jax.random.key(7))
  height = jax.random.normal(one, (OUTPUTS, INPUTS))
  phase = jax.random.uniform(two, (OUTPUTS, INPUTS), maxval=2 * jnp.pi)
  x = jax.random.normal(key, (number, INPUTS))
  waves = jnp.sin(2.5 * x[:, None] + phase)
  return x, (height * waves).sum(-1) / jnp.sqrt(INPUTS)


def _mixed(key, number):
  """Draws five normal inputs and a smooth function of them together."""
  x = jax.random.normal(key, (number, 5))
  y = jnp.sin(2 * x[:, 0]) * jnp.cos(x[:, 1]) + jnp.tanh(x[:, 2] * x[:, 3])
  return x, (y + 0.3 * x[:, 4])[:, None]


def _error(model: Any, task) -> float:
  """Trains a model; returns the mean squared error on new points."""

  def loss(model, key):
    x, y = task(key, BATCH)
    return ((model(x) - y) ** 2).mean()

  model = fit(loss, model, steps=STEPS, optimizer=optax.adam(RATE))

  @jax.jit
  def test(model):
    x, y = task(jax.random.key(10**6), TEST)
    return ((model(x) - y) ** 2).mean()

  return float(test(model))
