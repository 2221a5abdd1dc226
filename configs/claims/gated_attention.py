"""Gated Attention: a gate lets a head do nothing, for which softmax needs a sink.

Claimed (arXiv:2505.06708, section 4): the gate at the attention's output gives a lower
loss, and heads no longer need the first token as a sink. At this size, one layer without
a residual has to give the mean of all earlier tokens' features at a trigger token, and
zero at the others:
- with no token to spare for a sink, a gated layer's error is at most 1/8 of an ungated
  one's;
- with a first token that carries nothing, the ungated layer uses it as a sink. The
  elementwise gate still lowers the error, but does not remove the sink in so short a
  training; the attention to the first token is reported, without a bound.

  python -m experiments.claims gated_attention
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attnjax.variants.softmax import gated_attention
from experiments.evidence import Claim, at_least, fit

WIDTH, HEADS, LENGTH, FEATURES = 32, 2, 16, 8
BATCH, STEPS, RATE, TRIGGER = 128, 2000, 3e-3, 0.2


def claims() -> Iterator[Claim]:
  error, sink = {}, {}
  for null in (False, True):
    for gate in ("none", "headwise", "elementwise"):
      error[gate, null], sink[gate, null] = _train(gate, null)
      print(gate, null, error[gate,null], sink[gate,null], flush=True)
  for gate in ("headwise", "elementwise"):
    name = f"no null token: ungated / {gate} error"
    yield at_least(name, error["none", False] / error[gate, False], 8)


class _Model(nnx.Module):
  """Tokens to heads' outputs and out, with nothing around the attention."""

  def __init__(self, gate, rngs, **o):
    self.embed = nnx.Linear(2 + FEATURES, WIDTH, rngs=rngs)
    self.attention = gated_attention.Layer(WIDTH, heads=HEADS, gate=gate, rngs=rngs, **o)
    self.read = nnx.Linear(WIDTH, FEATURES, rngs=rngs)

  def __call__(self, x):
    return self.read(self.attention(self.embed(x)))


def _train(gate: str, null: bool, **o) -> tuple[float, float]:
  """Mean squared error, and the first token's share of attention at non-triggers."""

  def loss(model, key):
    x, y = _batch(key, null)
    return jnp.mean((model(x) - y) ** 2)

  model = _Model(gate, nnx.Rngs(0), **o)
  model = fit(loss, model, steps=STEPS, optimizer=optax.adam(RATE))
  x, y = _batch(jax.random.key(10**6), null, 4096)
  error = jnp.mean((model(x) - y) ** 2)
  first = model.attention.weights(model.embed(x))[:, :, 1:, 0].mean(1)
  idle = 1 - x[:, 1:, 1]
  return float(error), float((first * idle).sum() / idle.sum())


def _batch(key, null, size=BATCH):
  """Tokens (B, T, 2 + F): first flag, trigger flag, features; targets (B, T, F)."""
  key, other = jax.random.split(key)
  feature = jax.random.normal(key, (size, LENGTH, FEATURES))
  first = jnp.zeros((size, LENGTH, 1)).at[:, 0].set(1)
  trigger = jax.random.bernoulli(other, TRIGGER, first.shape).astype(jnp.float32)
  if null:
    feature = feature * (1 - first)
  before = jnp.arange(LENGTH)[:, None]
  mean = (jnp.cumsum(feature, axis=1) - feature) / jnp.maximum(before, 1)
  x = jnp.concatenate([first, trigger, feature], axis=-1)
  return x, trigger * mean
