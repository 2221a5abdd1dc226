"""Trains models of several rates and seeds by one program, one after the other."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnjax.nn import running
from experiments.small.problem import Problem

Run = tuple[float, int]  # a learning rate, and the seed of data, weights and order


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
  """Trains the models of (rate, seed) by one program.

  Args:
    build: random key -> the model, any module. A program is kept for the next call
      with a `build`, a loss and a recipe, if examples have the same shapes.
    problem: what it learns.
    recipe: how.
    runs: learning rates and seeds.
  """
  return path(build, problem, recipe, runs, marks=1)[-1]


def path(
  build: Callable[[jax.Array], Any],
  problem: Problem,
  recipe: Recipe,
  runs: Sequence[Run],
  marks: int,
) -> list[Trained]:
  """Trains as `train` does; returns the models after each of `marks` equal parts.

  Raises:
    ValueError: if the steps are not a multiple of `marks`.
  """
  if recipe.steps % marks:
    raise ValueError(f"{recipe.steps} steps do not have {marks} equal parts")
  program = _program(build, problem.loss, recipe, marks)
  found = []
  for rate, seed in runs:
    pool = problem.examples(seed, "train")
    found.append(program(jnp.uint32(seed), jnp.float32(rate), pool))
  models, stats = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *found)
  count = sum(leaf[0, 0].size for leaf in jax.tree.leaves(models))
  made = []
  for i in range(marks):
    model, own = jax.tree.map(lambda leaf, i=i: leaf[i], (models, stats))
    made.append(Trained(model, own, count))
  return made


def scores(
  trained: Trained, problem: Problem, runs: Sequence[Run], split: str
) -> list[float]:
  """Returns each model's score on the examples of its own seed."""
  program = _scorer(problem.score)
  found = []
  for i, (_, seed) in enumerate(runs):
    model, stats = jax.tree.map(lambda x, i=i: x[i], (trained.models, trained.stats))
    found.append(float(program(model, stats, problem.examples(seed, split))))
  return found


@functools.lru_cache(maxsize=32)
def _program(build, loss, recipe, marks):
  """Returns the compiled training: (seed, rate, pool) -> (models, statistics)."""
  return jax.jit(functools.partial(_one, build, loss, recipe, marks))


@functools.lru_cache(maxsize=4)
def _scorer(score):
  """Returns the compiled score of (a model, its statistics, examples)."""

  @jax.jit
  def run(model, stats, held):
    def call(*arguments, **options):
      given = {"stats": stats, "train": False}
      return running.apply(model, *arguments, **given, **options)[0]

    return score(call, held)

  return run


def _one(build, loss, recipe, marks, number, rate, pool):
  """Returns the model and its statistics at each mark, stacked."""
  weights, order = jax.random.split(jax.random.key(number))
  model = build(weights)
  optimizer = optimizer_of(recipe, model)

  def objective(model, stats, batch):
    new = [stats]

    def call(*arguments, **options):
      given = {"stats": new[-1], "train": True}
      y, after = running.apply(model, *arguments, **given, **options)
      new.append(after)
      return y

    return loss(call, batch), new[-1]

  def update(carry, step):
    model, stats, memory = carry
    size = jax.tree.leaves(pool)[0].shape[0]
    drawn = jax.random.fold_in(order, step)
    chosen = jax.random.randint(drawn, (recipe.batch,), 0, size)
    batch = jax.tree.map(lambda leaf: leaf[chosen], pool)
    gradient, stats = jax.grad(objective, has_aux=True)(model, stats, batch)
    change, memory = optimizer.update(gradient, memory, model)
    model = jax.tree.map(lambda p, c: p - rate * c, model, change)
    return (model, stats, memory), None

  def part(carry, steps):
    carry, _ = jax.lax.scan(update, carry, steps)
    return carry, carry[:2]

  start = model, running.init_stats(model), optimizer.init(model)
  steps = jnp.arange(recipe.steps).reshape(marks, -1)
  return jax.lax.scan(part, start, steps)[1]


def optimizer_of(recipe: Recipe, model: Any) -> optax.GradientTransformation:
  """Returns Adam with warm-up, a cosine and clipping, without a learning rate."""
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
