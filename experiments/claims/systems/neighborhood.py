"""Neighborhood attention: dense quality and a fraction of the work, unlike blocks.

Claimed (arXiv:2504.16922, sections 3 and 4): sliding windows keep what blocks lose at
their edges, strides are in between, and the saved tiles are saved time.

Quality: on a grid of 32 x 32 tokens each token has a name and a colour and asks for the
colour of the token of a given name, at most 3 rows and columns away. Names are unique,
so dense attention can answer by name alone. Two layers, a window of 7 x 7. From
scratch dense attention stays at chance for 300 steps: one key in 1024 has hardly a
gradient. It therefore begins with the trained windows' weights and trains on, so that
what is compared is what each can do, with the advantage on the dense side.

Speed: tiles of the simulator against those counted in the mask; times at T = 4096,
window 64, against the faster of two dense implementations.

  python -m experiments.claims neighborhood

Measured in 182 s on 2 cores: 9.1 times faster forward, 8.2 with backward; accuracy
0.9998 dense and 0.9996 in windows, at block edges 0.36 above blocks, stride 4 between
by 0.15.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.variants.local import neighborhood
from attnjax.variants.local.neighborhood import simulate
from attnjax.variants.softmax import dot_product
from experiments.claims.bounds import Bound, at_least, at_most
from experiments.claims.fit import fit

SIDE, WINDOW, REACH, COLOURS = 32, 7, 3, 4
CODE, WIDTH, HEADS, BATCH, STEPS = 24, 48, 1, 4, 200
TOKENS, LINE, HEAD_SIZE, QUERY_HEADS = 4096, 64, 64, 4


def claims() -> Iterator[Bound]:
  yield from _tiles()
  yield from _times()
  yield from _quality()


def _tiles():
  settings: tuple[tuple[tuple, dict[str, Any], tuple, int], ...] = (
    ((TOKENS,), {"window": LINE}, (64,), 64),
    ((64, 64), {"window": 16, "stride": 16}, (16,), 16),
    ((64, 64), {"window": 12, "stride": 4}, (64,), 64),
  )
  wrong = 0
  for grid, options, tile, size in settings:
    seen = np.asarray(neighborhood.dense_mask(grid, **options))
    found = simulate.visits(grid, **options, query_tile=tile, key_tile=tile)
    wrong += abs(found.visited - simulate.counted(seen, size, size))
  yield at_most("tiles of the simulator that differ from the mask's", wrong, 0)


def _times():
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (1, TOKENS, QUERY_HEADS, HEAD_SIZE)
  inputs = [jax.random.normal(key, shape) for key in keys]
  forms = {
    "windows": lambda q, k, v: neighborhood.attend(q, k, v, window=LINE),
    "dense in tiles": dot_product.attend,
    "dense": jax.nn.dot_product_attention,
  }
  for name, wrap in (("forward", _forward), ("forward and backward", _backward)):
    seconds = {form: _time(wrap(function), inputs) for form, function in forms.items()}
    windows = seconds.pop("windows")
    yield at_least(f"{name}: times faster", min(seconds.values()) / windows, 5)


def _forward(function):
  return jax.jit(function)


def _backward(function):
  def loss(q, k, v):
    return jnp.sum(jnp.sin(function(q, k, v)))

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


def _time(run, inputs) -> float:
  jax.block_until_ready(run(*inputs))
  times = []
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(run(*inputs))
    times.append(time.perf_counter() - start)
  return min(times)


def _quality():
  grid = (SIDE, SIDE)
  work = (
    1
    / simulate.visits(
      grid, window=WINDOW, query_tile=(8, 8), key_tile=(8, 8)
    ).operations
  )
  trained = _train(_Model(WINDOW, 1, nnx.Rngs(0)))
  slides, slides_edge = _accuracy(trained)
  yield at_most("attention FLOPs of a window of 7, of dense", work, 0.06)
  _, blocks_edge = _accuracy(_train(_Model(WINDOW, WINDOW, nnx.Rngs(0))))
  yield at_least(
    "accuracy above blocks at their edges", slides_edge - blocks_edge, 0.05
  )
  _, strides_edge = _accuracy(_train(_Model(WINDOW, 4, nnx.Rngs(0))))
  between = min(slides_edge - strides_edge, strides_edge - blocks_edge)
  yield at_least("stride 4 is between, from both by", between, 0)
  whole = _Model(SIDE, 1, nnx.Rngs(0))
  nnx.update(whole, nnx.state(trained))
  dense, _ = _accuracy(_train(whole))
  yield at_least("accuracy of dense attention", dense, 0.9)
  yield at_most("accuracy lost against dense", dense - slides, 0.01)


class _Model(nnx.Module):
  def __init__(self, window: int, stride: int, rngs: nnx.Rngs):
    def layer():
      return neighborhood.Layer(
        WIDTH, form="image", heads=HEADS, window=window, stride=stride, rngs=rngs
      )

    self.embed = nnx.Linear(2 * CODE + COLOURS, WIDTH, rngs=rngs)
    self.layers = nnx.List([layer(), layer()])
    self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(3)])
    self.head = nnx.Linear(WIDTH, COLOURS, rngs=rngs)

  def __call__(self, x):
    x = self.embed(x)
    for norm, layer in zip(self.norms, self.layers):
      x = x + layer(norm(x))
    return self.head(self.norms[2](x))


def _batch(key):
  """Draws features (B, 32, 32, 2 CODE + COLOURS) and the colours asked for."""
  names, colours, offsets = jax.random.split(key, 3)
  shape = (BATCH, SIDE, SIDE)
  name = jax.random.normal(names, (*shape, CODE))
  name = name / jnp.linalg.norm(name, axis=-1, keepdims=True) * CODE**0.5
  colour = jax.random.randint(colours, shape, 0, COLOURS)
  offset = jax.random.randint(offsets, (*shape, 2), -REACH, REACH + 1)
  place = jnp.stack(jnp.meshgrid(*[jnp.arange(SIDE)] * 2, indexing="ij"), axis=-1)
  row, column = jnp.moveaxis(jnp.clip(place + offset, 0, SIDE - 1), -1, 0)
  batch = jnp.arange(BATCH)[:, None, None]
  asked, label = name[batch, row, column], colour[batch, row, column]
  return jnp.concatenate([name, asked, jax.nn.one_hot(colour, COLOURS)], -1), label


def _train(model: _Model) -> _Model:
  def loss(model, key):
    x, label = _batch(key)
    return optax.softmax_cross_entropy_with_integer_labels(model(x), label).mean()

  rate = optax.warmup_cosine_decay_schedule(0, 1e-2, 30, STEPS)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  return fit(loss, model, steps=STEPS, optimizer=optimizer)


def _accuracy(model: _Model) -> tuple[float, float]:
  """Returns the accuracy of all tokens, and of those at the edges of 7 x 7 blocks."""

  @jax.jit
  def right(model, key):
    x, label = _batch(key)
    return (model(x).argmax(axis=-1) == label).mean(axis=0)

  keys = jax.random.split(jax.random.key(10**6), 16)
  by_place = np.mean([right(model, key) for key in keys], axis=0)
  place = np.arange(SIDE)
  edge = np.isin(place % WINDOW, (0, WINDOW - 1)) & (place > 0) & (place < SIDE - 1)
  edges = edge[:, None] | edge[None, :]
  return float(by_place.mean()), float(by_place[edges].mean())
