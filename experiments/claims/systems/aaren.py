"""Aaren: forecasts as softmax attention does, at a constant cost for each new token.

Claimed (arXiv:2405.13956):
- the same number of parameters but for the query tokens, D a layer: 3,152,896 against
  3,152,384 in a layer 512 wide with a feed-forward network of 2048;
- results comparable to a Transformer's, here on forecasts of noisy sums of sines;
- a stream of T tokens takes linear time and constant memory, where a Transformer that
  meets each token anew takes quadratic time.
Not claimed, but a consequence: the query does not depend on the token, so that Aaren
cannot recall what belongs to a key (arXiv:2312.04927), which softmax attention does.

  python -m experiments.claims aaren

Forecasts: T = 96, 32 wide, 2 layers of 4 heads, 600 steps of 32 series of three sines
whose sizes are 0.3 to 1, with noise of deviation 0.3. The less noise, the more Aaren is
behind: at 0.1 its error was 1.22 times softmax attention's; with noise of 0.2 and the
same three periods in all series, 1.80 times. Recall: 4 pairs in 32 tokens, 64 wide, 2
layers, 600 steps of 32 texts. Times are of the processor; all of it took 210 s of one.
"""

import functools
import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.contract import constructor
from attnjax.models import language
from attnjax.nn.stack import Stack
from attnjax.variants.recurrent import aaren
from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most
from experiments.claims.fit import fit
from experiments.data.sets import mqar

LENGTH, WIDTH, BATCH, STEPS, NOISE = 96, 32, 32, 600, 0.3
STREAMS = (500, 1000, 2000)
SOFTMAX = {
  "rope_theta": 0.0,
  "qkv_bias": True,
  "out_bias": True,
}  # positions are in the input, for both


def claims() -> Iterator[Bound]:
  added = _size(aaren.Layer, {}) - _size(dot_product.Layer, SOFTMAX)
  yield at_most("parameters more than softmax attention's, D = 512", added, 512)
  ours, theirs = (_forecast(*x) for x in (("aaren", {}), ("dot_product", SOFTMAX)))
  yield at_most(
    "squared error of forecasts, of softmax attention's", ours / theirs, 1.1
  )
  yield from _streams()
  recalled = {slug: _recall(slug) for slug in ("dot_product", "aaren")}
  yield at_least(
    "associative recall: accuracy of softmax", recalled["dot_product"], 0.9
  )
  yield at_most("the same: of Aaren", recalled["aaren"], 0.5)


def _size(layer, options) -> int:
  """Returns the number of parameters of the layer at D = 512."""
  shapes = nnx.eval_shape(lambda: layer(512, heads=8, **options, rngs=nnx.Rngs(0)))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


class _Forecaster(nnx.Module):
  def __init__(self, slug: str, options: dict, *, rngs: nnx.Rngs):
    build = constructor(slug, options, ("causal",))
    self.rise = nnx.Linear(1, WIDTH, rngs=rngs)
    self.stack = Stack([build], dim=WIDTH, depth=2, hidden=2 * WIDTH, rngs=rngs)
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
    self.fall = nnx.Linear(WIDTH, 1, rngs=rngs)

  def __call__(self, series):
    x = self.rise(series[..., None]) + _positions(series.shape[1])
    return self.fall(self.norm(self.stack(x)))[..., 0]


def _positions(length: int) -> jax.Array:
  """Returns sines and cosines of geometrically falling frequencies, (T, WIDTH)."""
  rate = 1e4 ** (-jnp.arange(WIDTH // 2) * 2 / WIDTH)
  angle = jnp.arange(length)[:, None] * rate
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def _series(key: jax.Array) -> jax.Array:
  """Draws (BATCH, LENGTH + 1): three sines of random period, phase, size, and noise."""
  keys = jax.random.split(key, 4)
  shape = (BATCH, 3, 1)
  period = jnp.exp(jax.random.uniform(keys[0], shape, minval=1.8, maxval=3.7))
  phase = jax.random.uniform(keys[1], shape, maxval=2 * jnp.pi)
  size = jax.random.uniform(keys[2], shape, minval=0.3)
  time = jnp.arange(LENGTH + 1)
  clean = (size * jnp.sin(2 * jnp.pi * time / period + phase)).sum(axis=1)
  return clean + NOISE * jax.random.normal(keys[3], clean.shape)


def _forecast(slug: str, options: dict) -> float:
  """Trains a forecaster; returns the mean squared error on new series."""
  graph, model = nnx.split(_Forecaster(slug, {"heads": 4} | options, rngs=nnx.Rngs(0)))

  def loss(model, key):
    series = _series(key)
    return ((nnx.merge(graph, model)(series[:, :-1]) - series[:, 1:]) ** 2).mean()

  model = fit(loss, model, steps=STEPS, optimizer=_optimizer(3e-3))
  keys = jax.random.split(jax.random.key(1), 16)
  return float(jax.lax.map(functools.partial(loss, model), keys).mean())


def _optimizer(rate: float):
  schedule = optax.warmup_cosine_decay_schedule(0, rate, 50, STEPS)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def _streams() -> Iterator[Bound]:
  """Yields bounds on the time and the state of a stream that comes token by token."""
  ours = aaren.Layer(WIDTH, form="causal", rngs=nnx.Rngs(0))
  theirs = dot_product.Layer(WIDTH, form="causal", **SOFTMAX, rngs=nnx.Rngs(0))

  @jax.jit
  def stream(layer, x):
    def body(cache, token):
      y, cache = layer.step(token[None, None], cache)
      return cache, y[0, 0]

    return jax.lax.scan(body, layer.init_cache(1, 1, x.dtype), x)

  @jax.jit
  def anew(layer, x):
    def body(t):
      # Every key and value so far is recomputed, for one query.
      seen = jnp.arange(x.shape[0]) <= t
      q, k, v = layer.qkv((x * seen[:, None])[None], jnp.arange(x.shape[0]))
      q = jax.lax.dynamic_slice_in_dim(q, t, 1, axis=1)
      out = dot_product.attend(q, k, v, mask=seen[None, None, None], impl="reference")
      return layer.out(out)[0, 0]

    return jax.lax.map(body, jnp.arange(x.shape[0]))

  times = {"aaren": [], "softmax": []}
  for length in STREAMS:
    x = jax.random.normal(jax.random.key(0), (length, WIDTH))
    times["aaren"].append(_seconds(lambda x=x: stream(ours, x)))
    times["softmax"].append(_seconds(lambda x=x: anew(theirs, x)))
  power = {k: np.polyfit(np.log(STREAMS), np.log(t), 1)[0] for k, t in times.items()}
  yield at_most("time of a stream of T tokens: power of T", power["aaren"], 1.25)
  yield at_least("the same, softmax attention anew", power["softmax"], 1.7)
  cache = stream(ours, jnp.zeros((STREAMS[-1], WIDTH)))[0]
  kept = sum(leaf.size for leaf in jax.tree.leaves(cache))
  yield at_most("numbers kept after 2,000 tokens", kept, 4 * (WIDTH // 4 + 1) + 1)


def _seconds(task) -> float:
  jax.block_until_ready(task())
  best = math.inf
  for _ in range(3):
    start = time.process_time()
    jax.block_until_ready(task())
    best = min(best, time.process_time() - start)
  return best


def _recall(slug: str) -> float:
  """Trains a language model with short convolutions; returns its accuracy on new texts.

  The convolution tells a value's position its key: one layer of attention is enough.
  """
  task = mqar.task(vocab=64, length=32, pairs=4, random_non_queries=False)
  build = constructor(slug, {"heads": 2}, ("causal",))
  model = language.Model([build], vocab=64, dim=64, conv=3, rngs=nnx.Rngs(0))
  graph, model = nnx.split(model)
  train, new = (_texts(task.source(s), n) for s, n in (("train", 8000), ("test", 500)))

  def loss(model, key):
    pick = jax.random.randint(key, (BATCH,), 0, train["tokens"].shape[0])
    text = {name: x[pick] for name, x in train.items()}
    logits = nnx.merge(graph, model)(text["tokens"])
    wrong = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.maximum(text["labels"], 0)
    )
    return jnp.mean(wrong, where=text["labels"] >= 0)

  model = fit(loss, model, steps=STEPS, optimizer=_optimizer(3e-3))
  found = nnx.merge(graph, model)(new["tokens"]).argmax(axis=-1)
  return float(jnp.mean(found == new["labels"], where=new["labels"] >= 0))


def _texts(source, count: int) -> dict[str, jax.Array]:
  examples = [source[i] for i in range(count)]
  return {n: jnp.array([e[n] for e in examples]) for n in ("tokens", "labels")}
