"""Trains a model that is given further, by the recipe of small models."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.small.problem import Problem
from experiments.small.training import Recipe, Run, optimizer_of


def further(model: Any, problem: Problem, recipe: Recipe, run: Run) -> Any:
  """Returns a model after more training; models of equal shapes share a program.

  Args:
    model: without running statistics.
    problem: what it learns.
    recipe: how.
    run: a learning rate, and the seed of data and order.
  """
  rate, seed = run
  program = _program(problem.loss, recipe)
  pool = problem.examples(seed, "train")
  return program(model, jnp.uint32(seed), jnp.float32(rate), pool)


@functools.lru_cache(maxsize=16)
def _program(loss, recipe):
  return jax.jit(functools.partial(_one, loss, recipe))


def _one(loss, recipe, model, seed, rate, pool):
  optimizer = optimizer_of(recipe, model)
  # Another order than that of a training before, which has the same seed.
  order = jax.random.fold_in(jax.random.key(seed), 1)
  size = jax.tree.leaves(pool)[0].shape[0]

  def update(carry, step):
    model, memory = carry
    drawn = jax.random.fold_in(order, step)
    chosen = jax.random.randint(drawn, (recipe.batch,), 0, size)
    batch = jax.tree.map(lambda leaf: leaf[chosen], pool)
    gradient = jax.grad(lambda model: loss(model, batch))(model)
    change, memory = optimizer.update(gradient, memory, model)
    return (jax.tree.map(lambda p, c: p - rate * c, model, change), memory), None

  carry = model, optimizer.init(model)
  return jax.lax.scan(update, carry, jnp.arange(recipe.steps))[0][0]
