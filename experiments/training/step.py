"""The update and the evaluation of one batch, each compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnjax.nn import running
from experiments.training import part
from experiments.training.objective import Objective


def cast(model: Any, dtype: str) -> Any:
  """Casts the model's parameters to the compute type; gradients stay float32.

  Running statistics are no part of the model, and stay float32.
  """
  return jax.tree.map(lambda leaf: leaf.astype(dtype), model)


def make_update(
  objective: Objective,
  optimizer,
  *,
  dtype: str,
  accumulate: int,
  seed: int,
  only: str = "",
) -> Callable:
  """Returns `update(state, batch) -> (state, sums)`.

  `state` is {"step", "model", "stats", "optimizer"}; `stats` are the model's running
  statistics, see `attnjax.nn.running`. With `accumulate` > 1 the batch is cut into as
  many parts whose gradients are accumulated: the same update in less memory. Batch norm
  normalises each part by its own statistics; the running ones move once, by those of
  all parts together. `only` is a rule of the parameters that are trained, see `part`.
  """

  def loss(model, stats, batch, key):
    batch = _compute_type(batch, dtype)
    model = cast(model, dtype)
    outputs, stats = objective.predict(model, stats, batch, key, train=True)
    totals = objective.totals(outputs, batch)
    return totals["loss"], (totals, stats)

  gradient = jax.grad(loss, has_aux=True)

  def update(state, batch):
    model, stats = state["model"], state["stats"]
    key = jax.random.fold_in(jax.random.key(seed), state["step"])
    if accumulate == 1:
      grads, (totals, stats) = gradient(model, stats, batch, key)
    else:
      grads, totals, stats = _in_parts(gradient, model, stats, batch, key, accumulate)
    grads = jax.tree.map(lambda g: g / jnp.maximum(totals["count"], 1), grads)
    grads = part.gradients(grads, only)
    change, memory = optimizer.update(grads, state["optimizer"], model)
    model = optax.apply_updates(model, change)
    totals["gradient_norm"] = optax.tree.norm(grads)
    step = state["step"] + 1
    state = {"step": step, "model": model, "stats": stats, "optimizer": memory}
    return state, totals

  return update


def make_evaluate(objective: Objective, *, dtype: str) -> Callable:
  """Returns `evaluate(model, stats, batch) -> sums`, by the running statistics."""

  def evaluate(model, stats, batch):
    batch = _compute_type(batch, dtype)
    outputs, _ = objective.predict(cast(model, dtype), stats, batch)
    return objective.totals(outputs, batch)

  return evaluate


def _compute_type(batch, dtype):
  def one(leaf):
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(one, batch)


def _in_parts(gradient, model, stats, batch, key, parts):
  """Accumulates (gradients, totals, new statistics) over the parts of a batch."""

  def cut(leaf):
    return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

  def add(carry, part):
    (total, moments), (batch, i) = carry, part
    draw = jax.random.fold_in(key, i)
    grads, (totals, moments) = gradient(model, moments, batch, draw)
    return (jax.tree.map(jnp.add, total, (grads, totals)), moments), None

  batches, moments = jax.tree.map(cut, batch), running.init_moments(stats)
  first = jax.tree.map(lambda leaf: leaf[0], batches)
  grads, (totals, _) = jax.eval_shape(gradient, model, moments, first, key)
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, totals))
  carry = (zero, moments), (batches, jnp.arange(parts))
  ((grads, totals), moments), _ = jax.lax.scan(add, *carry)
  return grads, totals, running.moved(model, stats, moments)
