"""The update and the evaluation of one batch, each compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnjax.nn import running
from experiments.training import memory as memory_parts
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

  `state` is {"step", "model", "stats", "memory", "optimizer"}; `stats` are the model's
  running statistics, see `attnjax.nn.running`, `memory` what it keeps from batch to
  batch, see `training.memory`; either may be `()`. With `accumulate` > 1 the batch is
  cut into as many parts whose gradients are accumulated: the same update in less
  memory. Batch norm normalises each part by its own statistics; the running ones move
  once, by those of all parts together. `only` is a rule of the parameters that are
  trained, see `part`.
  """

  def loss(model, stats, memory, batch, key):
    batch = _compute_type(batch, dtype)
    model = cast(model, dtype)
    outputs, *kept = objective.predict(
      model, stats, batch, key, memory=memory, train=True
    )
    totals = objective.totals(outputs, batch)
    return totals["loss"], (totals, *kept)

  gradient = jax.grad(loss, has_aux=True)

  def update(state, batch):
    model, held = state["model"], (state["stats"], state["memory"])
    key = jax.random.fold_in(jax.random.key(seed), state["step"])
    if accumulate == 1:
      grads, (totals, stats, kept) = gradient(model, *held, batch, key)
    else:
      grads, totals, stats, kept = _in_parts(
        gradient, model, *held, batch, key, accumulate
      )
    grads = jax.tree.map(lambda g: g / jnp.maximum(totals["count"], 1), grads)
    grads = part.gradients(grads, only)
    change, moments = optimizer.update(grads, state["optimizer"], model)
    model = optax.apply_updates(model, change)
    totals["gradient_norm"] = optax.tree.norm(grads)
    state = {"step": state["step"] + 1, "model": model, "stats": stats}
    return state | {"memory": kept, "optimizer": moments}, totals

  return update


def make_evaluate(objective: Objective, *, dtype: str) -> Callable:
  """Returns `evaluate(model, stats, memory, batch) -> (sums, memory after it)`.

  It is by the running statistics; `memory` is that of the batch before, or `()`.
  """

  def evaluate(model, stats, memory, batch):
    batch = _compute_type(batch, dtype)
    model = cast(model, dtype)
    outputs, _, memory = objective.predict(model, stats, batch, memory=memory)
    return objective.totals(outputs, batch), memory

  return evaluate


def _compute_type(batch, dtype):
  def one(leaf):
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(one, batch)


def _in_parts(gradient, model, stats, memory, batch, key, parts):
  """Accumulates (gradients, totals, new statistics, memory) over parts of a batch."""

  def cut(leaf):
    return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

  def add(carry, part):
    (total, moments), (batch, held, i) = carry, part
    draw = jax.random.fold_in(key, i)
    grads, (totals, moments, held) = gradient(model, moments, held, batch, draw)
    return (jax.tree.map(jnp.add, total, (grads, totals)), moments), held

  batches, moments = jax.tree.map(cut, batch), running.init_moments(stats)
  memories = memory_parts.parts(memory, parts)
  first = jax.tree.map(lambda leaf: leaf[0], (memories, batches))
  grads, (totals, *_) = jax.eval_shape(gradient, model, moments, *first, key)
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, totals))
  carry = (zero, moments), (batches, memories, jnp.arange(parts))
  ((grads, totals), moments), memories = jax.lax.scan(add, *carry)
  stats = running.moved(model, stats, moments)
  return grads, totals, stats, memory_parts.whole(memories)
