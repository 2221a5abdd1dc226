"""Trains models of several rates and seeds in one program."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnjax.nn import running
from experiments.small.problem import Problem

Run = tuple[float, int]  # a learning rate, and the seed of data, weights and order
_PART = 256  # examples that are scored at once


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A recipe of small models: AdamW, a warm-up and a cosine to zero.

  Attributes:
    steps: updates; 0 leaves models as they are drawn.
    batch: examples of an update, drawn with replacement.
    decay: weight decay of arrays of two axes and more.
    clip: the largest norm of a gradient.
    b2: of Adam.
  """

  steps: int
  batch: int = 32
  decay: float = 0.1
  clip: float = 1.0
  b2: float = 0.98


@dataclasses.dataclass(frozen=True)
class Trained:
  """Models of several runs, stacked on a first axis.

  Attributes:
    models: their parameters.
    stats: their running statistics, `()` without batch norm.
    parameters: the number of trained parameters of one.
  """

  models: Any
  stats: Any
  parameters: int


def train(
  build: Callable[[jax.Array], Any],
  problem: Problem,
  recipe: Recipe,
  runs: Sequence[Run],
) -> Trained:
  """Trains the models of (rate, seed) together.

  Args:
    build: random key -> the model, any module.
    problem: what it learns.
    recipe: how.
    runs: learning rates and seeds; a seed's examples are drawn once.
  """
  seeds = sorted({seed for _, seed in runs})
  pools = _stacked([problem.examples(seed, "train") for seed in seeds])
  own = jnp.array([seeds.index(seed) for _, seed in runs])
  rates = jnp.array([rate for rate, _ in runs], jnp.float32)
  numbers = jnp.array([seed for _, seed in runs], jnp.uint32)
  one = functools.partial(_one, build, problem, recipe, pools)
  run = jax.jit(lambda *each: jax.lax.map(lambda parts: one(*parts), each))
  models, stats = run(numbers, rates, own)
  count = sum(leaf[0].size for leaf in jax.tree.leaves(models))
  return Trained(models, stats, count)


def scores(
  trained: Trained, problem: Problem, runs: Sequence[Run], split: str
) -> list[float]:
  """Returns each model's score on the examples of its own seed."""
  held = _stacked([problem.examples(seed, split) for _, seed in runs])

  @jax.jit
  def run(models, stats, held):
    def one(parts):
      model, stats, held = parts

      def call(*arguments, **options):
        given = {"stats": stats, "train": False}
        return running.apply(model, *arguments, **given, **options)[0]

      return problem.score(call, held)

    return jax.lax.map(one, (models, stats, held))

  return np.asarray(run(trained.models, trained.stats, held), float).tolist()


def _one(build, problem, recipe, pools, number, rate, own):
  """Returns a trained model and its statistics."""
  weights, order = jax.random.split(jax.random.key(number))
  model = build(weights)
  optimizer = _optimizer(recipe, model)

  def objective(model, stats, batch):
    new = [stats]

    def call(*arguments, **options):
      given = {"stats": new[-1], "train": True}
      y, after = running.apply(model, *arguments, **given, **options)
      new.append(after)
      return y

    return problem.loss(call, batch), new[-1]

  def update(carry, step):
    model, stats, memory = carry
    size = jax.tree.leaves(pools)[0].shape[1]
    drawn = jax.random.fold_in(order, step)
    chosen = jax.random.randint(drawn, (recipe.batch,), 0, size)
    batch = jax.tree.map(lambda leaf: leaf[own, chosen], pools)
    gradient, stats = jax.grad(objective, has_aux=True)(model, stats, batch)
    change, memory = optimizer.update(gradient, memory, model)
    model = jax.tree.map(lambda p, c: p - rate * c, model, change)
    return (model, stats, memory), None

  start = model, running.init_stats(model), optimizer.init(model)
  (model, stats, _), _ = jax.lax.scan(update, start, jnp.arange(recipe.steps))
  return model, stats


def _optimizer(recipe: Recipe, model: Any) -> optax.GradientTransformation:
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, 1.0, recipe.steps // 10, max(recipe.steps, 1)
  )
  return optax.chain(
    optax.clip_by_global_norm(recipe.clip),
    optax.scale_by_adam(b2=recipe.b2),
    optax.add_decayed_weights(
      recipe.decay, mask=jax.tree.map(lambda leaf: leaf.ndim > 1, model)
    ),
    optax.scale_by_schedule(schedule),
  )


def _stacked(parts: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *parts)
