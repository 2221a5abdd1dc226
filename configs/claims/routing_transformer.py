"""Routing Transformer: clusters find what a window cannot see, at a share of the pairs.

Claimed (arXiv:2003.05997): routed heads give content-based attention at any distance
for T^1.5 pairs; local attention alone does not reach so far.

  python -m experiments.claims routing_transformer

The task: tokens have one of 16 colours, each colour one of 10 digits in each text; half
of the tokens show the digit, the others ask for it. The loss is on those that ask for a
colour that was shown before, but not in the last 24 tokens. T = 128, 2 layers, 64 wide,
2 local heads (12 tokens) and 2 routed ones (8 clusters of 22 tokens, shared queries and
keys, centroids by moving averages and commitment loss), trained with the selection of
the past, 400 steps of 8 texts.

Not measured yet as a whole: only that dense attention learns the task.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.nn import mlp
from attnjax.variants.local import neighborhood
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import routing_transformer as routing
from experiments.evidence import Claim, at_least, at_most, reported
from experiments.training import cost

COLOURS, DIGITS, LENGTH, FAR = 16, 10, 128, 24
WIDTH, HEADS, CLUSTERS, WINDOW, NEAR = 64, 4, 8, 22, 12
BATCH, STEPS, RATE = 8, 400, 4e-3
LENGTHS = (4096, 16384)


def claims() -> Iterator[Claim]:
  yield at_most("pairs in clusters / all pairs", CLUSTERS * WINDOW**2 / LENGTH**2, 0.25)
  for selection in routing.SELECTIONS:
    name = f"products of the selection {selection!r}: power of T, 4k to 16k"
    yield at_most(name, _power(selection), 1.6)
  dense = _accuracy(functools.partial(dot_product.Layer, heads=HEADS))
  yield at_least("digits right, dense", dense, 0.95)
  local = _accuracy(functools.partial(neighborhood.Layer, heads=HEADS, window=NEAR))
  yield at_most("the same, local heads only", local, 0.5)
  options = {"clusters": CLUSTERS, "window": WINDOW, "local_window": NEAR}
  routed = functools.partial(routing.Layer, heads=HEADS, share_qk=True, **options)
  yield at_least("the same, local and routed heads", _accuracy(routed), 0.95)
  yield reported("the same, one guess in", DIGITS)


def _power(selection: str) -> float:
  """The power of T with which products grow, c = w = T^0.5."""
  flops = []
  for T in LENGTHS:
    count = round(T**0.5)
    heads = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
    means = jax.ShapeDtypeStruct((1, count, 16), jnp.float32)
    options = {"window": count, "selection": selection, "impl": "xla"}
    run = functools.partial(routing.attend, **options)
    flops.append(cost.flops(jax.make_jaxpr(run)(heads, heads, heads, means).jaxpr))
  return float(np.log(flops[1] / flops[0]) / np.log(LENGTHS[1] / LENGTHS[0]))


class _Block(nnx.Module):
  def __init__(self, mixer, *, rngs: nnx.Rngs):
    self.norms = nnx.List(nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2))
    self.mixer = mixer(WIDTH, rngs=rngs)
    self.mlp = mlp.KINDS["swiglu"](WIDTH, 2 * WIDTH, rngs=rngs)

  def __call__(self, x, clusters, index):
    y, loss = self.norms[0](x), 0.0
    if clusters is None:
      y = self.mixer(y)
    else:
      y, loss, clusters = self.mixer.learn(y, clusters, index=index, decay=0.99)
    x = x + y
    return x + self.mlp(self.norms[1](x)), loss, clusters


class _Model(nnx.Module):
  """(tokens, clusters of both layers) to (logits, commitment loss, new clusters)."""

  def __init__(self, mixer):
    rngs = nnx.Rngs(0)
    self.colour = nnx.Embed(COLOURS, WIDTH, rngs=rngs)
    self.digit = nnx.Embed(DIGITS + 1, WIDTH, rngs=rngs)
    self.blocks = nnx.List(_Block(mixer, rngs=rngs) for _ in range(2))
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, DIGITS, rngs=rngs)

  def start(self):
    """The clusters before training; None for layers without."""
    mixers = [block.mixer for block in self.blocks]
    return tuple(
      routing.Clusters.start(m.start_means(i)) if isinstance(m, routing.Layer) else None
      for i, m in enumerate(mixers)
    )

  def __call__(self, colour, digit, clusters):
    x, total, new = self.colour(colour) + self.digit(digit), 0.0, []
    for index, (block, own) in enumerate(zip(self.blocks, clusters)):
      x, loss, own = block(x, own, index)
      total, new = total + loss, [*new, own]
    return self.head(self.norm(x)), total, tuple(new)


def _accuracy(mixer) -> float:
  """The share of right digits after training."""
  model: Any = _Model(mixer)
  rate = optax.warmup_cosine_decay_schedule(0, RATE, STEPS // 10, STEPS)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

  def loss(model, clusters, key):
    colour, digit, answer, asked = _texts(key)
    logits, commitment, new = model(colour, digit, clusters)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, answer)
    return (each * asked).sum() / asked.sum() + commitment, new

  def update(carry, i):
    model, clusters, state = carry
    key = jax.random.fold_in(jax.random.key(0), i)
    gradient, clusters = jax.grad(loss, has_aux=True)(model, clusters, key)
    change, state = optimizer.update(gradient, state, model)
    return (optax.apply_updates(model, change), clusters, state), None

  start = model, model.start(), optimizer.init(model)
  run = jax.jit(lambda carry: jax.lax.scan(update, carry, jnp.arange(STEPS))[0])
  model, clusters, _ = run(start)

  @jax.jit
  def right(key):
    colour, digit, answer, asked = _texts(key)
    guess = model(colour, digit, clusters)[0].argmax(-1)
    return ((guess == answer) * asked).sum() / asked.sum()

  keys = jax.random.split(jax.random.key(10**6), 16)
  return float(sum(right(key) for key in keys) / len(keys))


def _texts(key: jax.Array):
  """Colours, digits (DIGITS where hidden), answers, and which answers count."""

  def one(key):
    parts = jax.random.split(key, 3)
    colour = jax.random.randint(parts[0], (LENGTH,), 0, COLOURS)
    answer = jax.random.randint(parts[1], (COLOURS,), 0, DIGITS)[colour]
    shown = jax.random.bernoulli(parts[2], 0.5, (LENGTH,))
    ago = jnp.arange(LENGTH)[:, None] - jnp.arange(LENGTH)
    same = (colour[:, None] == colour) & shown & (ago > 0)
    asked = same.any(1) & ~(same & (ago <= FAR)).any(1) & ~shown
    return colour, jnp.where(shown, answer, DIGITS), answer, asked

  return jax.vmap(one)(jax.random.split(key, BATCH))
