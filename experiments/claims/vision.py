"""Small image classifiers for claims: the vision host on tasks that are drawn."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from attnjax import contract
from attnjax.models import vision
from experiments.claims.fit import fit

# (key, number) -> images (B, H, W, C) and labels (B,)
Draw = Callable[[jax.Array, int], tuple[jax.Array, jax.Array]]


def mechanism(slug: str, **options) -> contract.Constructor:
  """Returns the constructor of a system's layers for the vision host."""
  return contract.constructor(slug, options, vision.FORMS)


def train(
  build: Any,
  draw: Draw,
  *,
  channels: int,
  classes: int,
  patch: int = 4,
  dim: int = 32,
  depth: int = 2,
  steps: int = 600,
  batch: int = 64,
  rate: float = 3e-3,
  seed: int = 0,
  host: Callable[..., Any] = vision.Model,
) -> Any:
  """Trains a model with Adam on drawn images; the other options are the host's."""
  model = host(
    [build],
    channels=channels,
    classes=classes,
    patch=patch,
    dim=dim,
    depth=depth,
    mlp_ratio=2.0,
    rngs=nnx.Rngs(seed),
  )

  def loss(model, key):
    images, labels = draw(key, batch)
    logits = model(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  schedule = optax.warmup_cosine_decay_schedule(0, rate, steps // 10, steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
  return fit(loss, model, steps=steps, optimizer=optimizer, seed=seed)


def answers(
  model: nnx.Module, draw: Draw, *, batches: int = 8, batch: int = 128
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (the model's classes, the labels) of images not seen in training."""

  @jax.jit
  def run(model, key):
    images, labels = draw(key, batch)
    return model(images).argmax(-1), labels

  keys = jax.random.split(jax.random.key(10**6), batches)
  found = [run(model, key) for key in keys]
  guessed, labels = (np.concatenate(part) for part in zip(*found))
  return guessed, labels


def accuracy(model: nnx.Module, draw: Draw, **options) -> float:
  """Returns the share of right answers; options as in `answers`."""
  guessed, labels = answers(model, draw, **options)
  return float((guessed == labels).mean())


def seconds(run: Callable[[], Any], repeats: int) -> float:
  """Returns CPU seconds a run, on all cores: the least mean of `repeats` runs.

  Only this process is measured: other work on the machine hardly counts.
  """
  jax.block_until_ready(run())
  found = []
  for _ in range(3):
    start = time.process_time()
    for _ in range(repeats):
      jax.block_until_ready(run())
    found.append((time.process_time() - start) / repeats)
  return min(found)


def jitted(function: Callable, *arguments) -> Callable[[], Any]:
  """Returns the compiled function bound to its arguments, to be timed."""
  return functools.partial(jax.jit(function), *arguments)
