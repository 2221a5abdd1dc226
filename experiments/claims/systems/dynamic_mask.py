"""Dynamic mask attention: what it learns to keep beats a window and a random set.

Claimed (arXiv:2508.02124): with few keys a query, learned importance keeps what is
asked for later, where a sliding window and a set that does not depend on the content
do not; a cache of w tokens is enough for decoding.

  python -m experiments.claims dynamic_mask

The task is recall: 4 pairs of adjacent tokens (8 keys, 8 values, paired anew in each
text) among noise, then the 4 keys; 48 tokens, the loss on the 4 answers. One layer, 32
wide, 2 heads, sees 12 keys; below it a convolution of width 2, which begins as a sum,
tells the place of a value its key. 480 steps of 64 texts. One of 4 values guessed is
right in 1/4. The random set ranks places, the same in all texts. Without the
convolution two dense layers still guessed after 800 steps.

It takes four minutes of one core.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attnjax import contract
from attnjax.models import language
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import dynamic_mask
from experiments.claims.bounds import Bound, at_least, at_most, reported
from experiments.claims.fit import fit

PAIRS, KINDS, NOISE, LENGTH = 4, 8, 16, 48
THETA = 1e4  # of the rotary positions
WIDTH, CONV, KEEP, BATCH, STEPS, RATE = 32, 2, 12, 64, 480, 4e-3


def claims() -> Iterator[Bound]:
  yield at_most("decoding with 12 kept tokens against the whole", _decoded(), 1e-4)
  dense = _accuracy(_constructor("dot_product"))
  yield at_least("answers right, dense", dense, 0.95)
  window = _accuracy(_constructor("neighborhood", window=KEEP))
  yield reported("the same, a window of 12", window)
  chance = _accuracy(_Random)
  yield reported("the same, 12 random places", chance)
  ours = _constructor("dynamic_mask", keep_keys=KEEP, impl="reference")
  found = _accuracy(ours)
  yield reported("the same, 12 kept by importance", found)
  yield at_least("the same, above the window", found - window, 0.2)
  yield at_least("the same, above random places", found - chance, 0.2)
  longer = _accuracy(ours, 3 * STEPS)
  yield at_least("the same, 12 kept, three times the steps", longer, 0.9)


def _constructor(slug: str, **options):
  return contract.constructor(
    slug, {"heads": 2, "rope_theta": THETA} | options, language.FORMS
  )


class _Random(nnx.Module):
  """Dot-product attention to KEEP random keys of the past, the same in all texts."""

  def __init__(self, dim: int, *, layers: int, rngs: nnx.Rngs):
    del layers
    self.inner = dot_product.Layer(
      dim, form="causal", heads=2, rope_theta=THETA, rngs=rngs
    )

  def __call__(self, x, *, index=0):
    del index
    T = x.shape[1]
    number = jax.random.normal(jax.random.key(5), (1, T, 1))
    kept = dynamic_mask.selected(number, dynamic_mask.allowed((1, T, T), True), KEEP)
    q, k, v = self.inner.qkv(x, jnp.arange(T))
    return self.inner.out(dot_product.attend(q, k, v, mask=kept))


def _accuracy(build, steps: int = STEPS) -> float:
  """Trains a model; returns the share of right answers."""
  vocab = 2 * KINDS + NOISE
  model: Any = language.Model(
    [build], vocab=vocab, dim=WIDTH, depth=1, conv=CONV, tied=False, rngs=nnx.Rngs(0)
  )
  # Near the identity, its initial value, a value's position hardly knows its key.
  taps = model.stack.blocks[0].conv.kernel
  taps[...] = jnp.full(taps.shape, CONV**-0.5)

  def loss(model, key):
    tokens, answers = _texts(key)
    logits = model(tokens)[:, -PAIRS:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()

  rate = optax.warmup_cosine_decay_schedule(0, RATE, steps // 10, steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
  model = fit(loss, model, steps=steps, optimizer=optimizer)

  @jax.jit
  def right(model, key):
    tokens, answers = _texts(key)
    return (model(tokens)[:, -PAIRS:].argmax(-1) == answers).mean()

  keys = jax.random.split(jax.random.key(10**6), 16)
  return float(sum(right(model, key) for key in keys) / len(keys))


def _texts(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Draws tokens (BATCH, LENGTH), noise with pairs, then their keys; and the values."""

  def one(key):
    parts = jax.random.split(key, 5)
    keys = jax.random.permutation(parts[0], KINDS)[:PAIRS]
    values = KINDS + jax.random.permutation(parts[1], KINDS)[:PAIRS]
    noise = 2 * KINDS + jax.random.randint(parts[2], (LENGTH - PAIRS,), 0, NOISE)
    slots = jax.random.permutation(parts[3], (LENGTH - PAIRS) // 2)[:PAIRS]
    text = noise.at[2 * slots].set(keys).at[2 * slots + 1].set(values)
    order = jax.random.permutation(parts[4], PAIRS)
    return jnp.concatenate([text, keys[order]]), values[order]

  return jax.vmap(one)(jax.random.split(key, BATCH))


def _decoded() -> float:
  """Returns the largest error of decoded outputs, relative to the largest output."""
  layer = dynamic_mask.Layer(
    WIDTH, form="causal", heads=2, keep_keys=KEEP, rngs=nnx.Rngs(0)
  )
  x = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
  whole, cache, parts = layer(x), layer.init_cache(2, LENGTH), []
  step = jax.jit(lambda x, cache: layer.step(x, cache))
  for t in range(LENGTH):
    y, cache = step(x[:, t : t + 1], cache)
    parts.append(y)
  error = jnp.abs(jnp.concatenate(parts, axis=1) - whole).max()
  return float(error / jnp.abs(whole).max())
