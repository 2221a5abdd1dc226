"""Superlinear attention: a needle at any depth, for T^1.5 products.

Claimed (arXiv:2601.18401): no position is out of reach, although a query reads T^0.5
keys; the time grows as T^1.5.

  python -m experiments.claims superlinear

The task: 256 tokens of noise, in which one of 8 values stands at a random place of the
first 192; the last token asks which. Convolutions of width 2 T^0.5 = 32 below let the
keys of anchors tell of the tokens before them; they begin as sums. 64 wide, 4 heads, 2
spans, window 3, 600 steps of 16 texts. Dense attention and the window alone stand on
the same convolution; one value guessed is right in 1/8. Times are of the processor,
forward, one head, H = 16.

It takes two minutes of one core. After 300 steps of 32 texts spans had found 0.82 of
the values, dense attention all of them: the search is learned later.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.nn.convolution import ShortConvolution
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import superlinear
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.fit import fit
from experiments.claims.vision import jitted, seconds

LENGTH, NOISE, VALUES, PLACES = 256, 16, 8, 192
WIDTH, HEADS, TOP, WINDOW_INDEX, REACH = 64, 4, 2, 1, 32
BATCH, STEPS, RATE = 16, 600, 4e-3
SHORT, LONG = 4096, 16384


def claims() -> Iterator[Bound]:
  share = [_read(T) / T for T in (LENGTH, 4 * LENGTH, 16 * LENGTH)]
  yield at_most("keys that a query reads / T, T = 256", share[0], 0.35)
  power = np.log(share[2] / share[0]) / np.log(16)
  yield at_most("the same: power of T, 256 to 4096", power, -0.45)
  yield at_least("values found, dense attention", _accuracy("dense"), 0.95)
  yield at_least("the same, spans", _accuracy("spans"), 0.9)
  yield at_most("the same, window only", _accuracy("window"), 0.25)
  ours, dense = (_growth(run) for run in (_superlinear, _dense))
  yield at_most("time, T = 4k to 16k", ours, 9)
  yield reported("the same, dense", dense)


def _read(T: int) -> int:
  """Returns the most keys that the last query reads: anchors, spans and window."""
  anchors = len(superlinear.stripes(T, WINDOW_INDEX, 0.5))
  span = int(superlinear.reaches(T, 2.0, 0.5)[-1]) + 1
  return anchors + TOP * span + superlinear.window_length(WINDOW_INDEX)


class _Model(nnx.Module):
  """Embeddings, a convolution, and one query of one layer.

  The query sees the "window", the "spans" with it, or all tokens ("dense").
  """

  def __init__(self, form: str):
    rngs = nnx.Rngs(0)
    self.embed = nnx.Embed(NOISE + VALUES + 1, WIDTH, rngs=rngs)
    self.convolution = ShortConvolution(WIDTH, REACH, rngs=rngs)
    # The kernel begins as a sum of all that it reaches, not as the identity.
    self.convolution.kernel[...] = jnp.full((REACH, WIDTH), REACH**-0.5)
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
    self.layer = superlinear.Layer(
      WIDTH, heads=HEADS, top=TOP, window_index=WINDOW_INDEX, rope_theta=0.0, rngs=rngs
    )
    self.head = nnx.Linear(WIDTH, VALUES, rngs=rngs)
    self.form = form

  def __call__(self, tokens):
    x = self.embed(tokens)
    x = self.norm(x + self.convolution(x))
    last = x[:, -1:]
    q1, (q2, k, v) = self.layer.search(last), self.layer.qkv.heads(x)
    q2 = q2[:, -1:]
    if self.form == "spans":
      options = self.layer.geometry._asdict()
      out = superlinear.attend(q1, q2, k, v, **options)
    else:
      window = superlinear.window_length(WINDOW_INDEX)
      near = window if self.form == "window" else LENGTH
      out = dot_product.attend(q2, k[:, -near:], v[:, -near:])
    return self.head(last + self.layer.out(out))[:, 0]


def _accuracy(form: str) -> float:
  """Trains a model; returns the share of values that it finds."""

  def loss(model, key):
    tokens, values = _texts(key)
    logits = model(tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, values).mean()

  rate = optax.warmup_cosine_decay_schedule(0, RATE, STEPS // 10, STEPS)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  model = fit(loss, _Model(form), steps=STEPS, optimizer=optimizer)

  @jax.jit
  def right(model, key):
    tokens, values = _texts(key)
    return (model(tokens).argmax(-1) == values).mean()

  keys = jax.random.split(jax.random.key(10**6), 16)
  return float(sum(right(model, key) for key in keys) / len(keys))


def _texts(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Draws tokens (BATCH, LENGTH) that end with a question, and values (BATCH,)."""
  parts = jax.random.split(key, 3)
  noise = jax.random.randint(parts[0], (BATCH, LENGTH), 0, NOISE)
  value = jax.random.randint(parts[1], (BATCH,), 0, VALUES)
  place = jax.random.randint(parts[2], (BATCH,), 0, PLACES)
  tokens = noise.at[jnp.arange(BATCH), place].set(NOISE + value)
  return tokens.at[:, -1].set(NOISE + VALUES), value


def _superlinear(q, k, v):
  return superlinear.attend(q, q, k, v, impl="xla")


def _dense(q, k, v):
  return dot_product.attend(q, k, v, causal=True, impl="xla")


def _growth(run) -> float:
  """Returns the seconds at the longer length over those at the shorter one."""
  found = []
  for T in (SHORT, LONG):
    keys = jax.random.split(jax.random.key(0), 3)
    heads = [jax.random.normal(key, (1, T, 1, 16)) for key in keys]
    found.append(seconds(jitted(run, *heads), 1))
  return found[1] / found[0]
