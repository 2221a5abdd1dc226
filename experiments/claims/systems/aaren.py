"""Aaren: forecasts as softmax attention does, at a constant cost for each new token.

Claimed (arXiv:2405.13956, abstract and section 4): results comparable to a
Transformer's on reinforcement learning, events, time series and classification; a
stream of T tokens takes time linear in T and memory that does not grow.

Forecasts: the next value of sums of three sines with random periods, phases and sizes
and noise of deviation 0.1; 96 values, two blocks 32 wide with 4 heads, sinusoidal
positions at the input of both mechanisms, 300 steps of 16 series. The error is the
natural logarithm of the mean squared error: comparable means within 10 %, 0.095, as the
catalogue has it. An earlier measurement raised the noise to 0.3 until the difference
was within it; this one goes back to little noise. An own task, since the shared suite
has no forecasts, which the paper's comparison is about.

Recall: 4 pairs in 32 tokens (MQAR), two blocks 32 wide with short convolutions of 3 and
2 heads, 320 steps of 32, at which softmax attention learns it. The paper has no task of
recall. Its query does not depend on the token, so that "comparable" should fail here;
the claim says by how much it does.

Streams: CPU seconds of T tokens, one at a time, the layer 32 wide and 4 heads. The best
rival is softmax attention with a cache of keys and values; the broken row is softmax
attention that computes all keys and values anew for each token, as in the paper.

  python -m experiments.claims aaren

About 200 s of one core.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax import contract
from attnjax.core.positions import sinusoids
from attnjax.nn.stack import Stack
from attnjax.variants.softmax import dot_product
from experiments import data, small
from experiments.claims import rows, timing
from experiments.claims.claim import Cost, Quality, Sized

LENGTH, WIDTH, NOISE, TRAIN, HELD_OUT = 96, 32, 0.1, 8192, 1024
SOFTMAX = "dot_product", {"rope_theta": 0.0, "qkv_bias": True, "out_bias": True}
FORMS = ("causal",)
TWO = "aaren", {"heads": 2}


class _Forecaster(nnx.Module):
  def __init__(self, build, *, rngs: nnx.Rngs):
    self.rise = nnx.Linear(1, WIDTH, rngs=rngs)
    self.stack = Stack([build], dim=WIDTH, depth=2, hidden=2 * WIDTH, rngs=rngs)
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
    self.fall = nnx.Linear(WIDTH, 1, rngs=rngs)

  def __call__(self, series):
    x = self.rise(series[..., None]) + sinusoids(series.shape[1:], WIDTH)
    return self.fall(self.norm(self.stack(x)))[..., 0]


@functools.cache
def series(seed, split):
  """Draws series (B, T + 1): three sines of random period, phase, size, and noise."""
  rng = np.random.default_rng([seed, data.SPLITS.index(split)])
  shape = TRAIN if split == "train" else HELD_OUT, 3, 1
  period = np.exp(rng.uniform(1.8, 3.7, shape))
  phase, size = rng.uniform(0, 2 * np.pi, shape), rng.uniform(0.3, 1, shape)
  waves = size * np.sin(2 * np.pi * np.arange(LENGTH + 1) / period + phase)
  noise = NOISE * rng.standard_normal((shape[0], LENGTH + 1))
  return {"series": (waves.sum(axis=1) + noise).astype(np.float32)}


def _error(call, batch):
  return jnp.square(call(batch["series"][:, :-1]) - batch["series"][:, 1:]).mean()


FORECASTS = small.Problem(series, _error, lambda *given: jnp.log(_error(*given)))
RECALL, TASK = small.of_task(
  "mqar", train=8192, held_out=1024, vocab=64, length=32, pairs=4
)


def _forecast(name, kind, build, steps=300):
  def model(key):
    return _Forecaster(small.layer(build, FORMS), rngs=nnx.Rngs(key))

  recipe = small.Recipe(steps=steps, batch=16)
  return rows.trained(name, kind, model, FORECASTS, recipe)


def _recall(name, kind, build, steps=320):
  model = small.language([build], vocab=TASK.vocab, dim=WIDTH, conv=3)
  return rows.trained(name, kind, model, RECALL, small.Recipe(steps=steps))


def _stream(slug, options, length):
  """Returns the seconds of a stream whose tokens a layer's `step` takes."""
  layer = contract.constructor(slug, options, FORMS)(WIDTH, layers=1, rngs=nnx.Rngs(0))

  def run(layer, x):
    def body(cache, token):
      y, cache = layer.step(token[None, None], cache)
      return cache, y[0, 0]

    return jax.lax.scan(body, layer.init_cache(1, length, x.dtype), x)[1]

  return timing.seconds(run, layer, _tokens(length))


def _anew(length):
  """Returns the seconds of a stream for which all keys and values are made anew."""
  layer = dot_product.Layer(WIDTH, form="causal", **SOFTMAX[1], rngs=nnx.Rngs(0))

  def run(layer, x):
    def body(t):
      seen = jnp.arange(length) <= t
      q, k, v = layer.qkv((x * seen[:, None])[None], None)
      q = jax.lax.dynamic_slice_in_dim(q, t, 1, axis=1)
      out = dot_product.attend(q, k, v, mask=seen[None, None, None], impl="reference")
      return layer.out(out)[0, 0]

    return jax.lax.map(body, jnp.arange(length))

  return timing.seconds(run, layer, _tokens(length))


def _tokens(length):
  return jax.random.normal(jax.random.key(0), (length, WIDTH))


CLAIMS = (
  Quality(
    sentence="Aaren's error of forecasts is at most 10 % above softmax attention's.",
    source="abstract and section 4, on forecasting",
    unit="of the error's logarithm",
    better="less",
    rows=(
      _forecast("Aaren", "mechanism", "aaren"),
      _forecast("without it", "without", small.without("aaren", FORMS)),
      _forecast("softmax attention", "baseline", SOFTMAX),
      _forecast("untrained", "broken", "aaren", steps=0),
    ),
    against="softmax attention",
    margin=-0.095,
  ),
  Quality(
    sentence="Aaren recalls as many values of keys as softmax attention, within 5 %.",
    source="abstract: comparable performance; a task that is not in the paper",
    unit="share of right answers",
    better="more",
    rows=(
      _recall("Aaren", "mechanism", TWO),
      _recall("without it", "without", small.without(TWO, FORMS)),
      _recall("softmax attention", "baseline", ("dot_product", {"heads": 2})),
      _recall("untrained", "broken", TWO, steps=0),
    ),
    against="softmax attention",
    margin=-0.05,
  ),
  Cost(
    sentence="A stream of T tokens, one at a time, takes time linear in T.",
    source="abstract and section 4, on streams",
    unit="seconds",
    rows=(
      Sized("Aaren", "mechanism", functools.partial(_stream, "aaren", {})),
      Sized("softmax, with a cache", "rival", functools.partial(_stream, *SOFTMAX)),
      Sized("softmax, anew for each token", "broken", _anew),
    ),
    sizes=(512, 1024, 2048, 4096),
    exponent=1.25,
  ),
)
