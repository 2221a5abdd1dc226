"""Gated Attention: a gate lets a head do nothing, for which softmax needs a sink.

Claimed (arXiv:2505.06708, section 4): the gate at the attention's output lowers the
loss, and no head needs the first token as a sink. Here one layer without a residual has
to give the mean of all earlier tokens' features at trigger tokens, and zero elsewhere:
- with no token to spare, a gated layer's error is at most 1/8 of an ungated one's;
- with a first token that carries nothing, the ungated layer makes it a sink; the
  elementwise gate's error is several times lower. The attention that tokens without a
  task give to the first token is reported without a bound: in so short a training it
  hangs on how the gate starts.

  python -m experiments.claims gated_attention

Measured in 129 s on 2 cores.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attnjax.variants.softmax import gated_attention
from experiments.claims.bounds import Bound, at_least, reported
from experiments.claims.fit import fit

WIDTH, HEADS, LENGTH, FEATURES = 32, 2, 16, 8
BATCH, STEPS, RATE, TRIGGER = 128, 2000, 3e-3, 0.2


def claims() -> Iterator[Bound]:
  for null in (False, True):
    words = "a null first token" if null else "no null token"
    plain, sink = _train("none", null)
    yield reported(f"{words}: attention to the first, ungated", sink)
    for gate in ("headwise", "elementwise"):
      error, sink = _train(gate, null)
      yield reported(f"{words}: attention to the first, {gate}", sink)
      name = f"{words}: error of ungated / {gate}"
      if null and gate == "headwise":
        yield reported(name, plain / error)
      else:
        yield at_least(name, plain / error, 5 if null else 8)


class _Model(nnx.Module):
  """One layer without norm, positions or residual: content alone decides."""

  def __init__(self, gate, seed):
    rngs = nnx.Rngs(seed)
    self.embed = nnx.Linear(2 + FEATURES, WIDTH, rngs=rngs)
    self.attention = gated_attention.Layer(
      WIDTH,
      form="causal",
      heads=HEADS,
      gate=gate,
      qk_norm=False,
      rope_theta=0.0,
      rngs=rngs,
    )
    self.read = nnx.Linear(WIDTH, FEATURES, rngs=rngs)

  def __call__(self, x):
    return self.read(self.attention(self.embed(x)))


def _train(gate: str, null: bool, seed: int = 0) -> tuple[float, float]:
  """Trains a model; returns (squared error, first token's weight at non-triggers)."""

  def loss(model, key):
    x, y = _batch(key, null, BATCH)
    return jnp.mean((model(x) - y) ** 2)

  model = _Model(gate, seed)
  model = fit(loss, model, steps=STEPS, optimizer=optax.adam(RATE), seed=seed)
  x, y = _batch(jax.random.key(10**6), null, 32 * BATCH)
  error = jnp.mean((model(x) - y) ** 2)
  first = model.attention.weights(model.embed(x))[:, :, 1:, 0].mean(axis=1)
  idle = 1 - x[:, 1:, 1]
  return float(error), float((first * idle).sum() / idle.sum())


def _batch(key, null, size):
  """Draws tokens (B, T, 2 + F): first, trigger, features; and targets (B, T, F)."""
  key, other = jax.random.split(key)
  feature = jax.random.normal(key, (size, LENGTH, FEATURES))
  first = jnp.zeros((size, LENGTH, 1)).at[:, 0].set(1)
  trigger = jax.random.bernoulli(other, TRIGGER, first.shape).astype(jnp.float32)
  if null:
    feature = feature * (1 - first)
  before = jnp.maximum(jnp.arange(LENGTH), 1)[:, None]
  mean = (jnp.cumsum(feature, axis=1) - feature) / before
  return jnp.concatenate([first, trigger, feature], axis=-1), trigger * mean
