"""The update and the evaluation of one batch, each compiled once."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.training import objective


def cast(model: Any, dtype: str) -> Any:
  """The model with its parameters in the compute type; gradients stay float32."""
  return jax.tree.map(lambda leaf: leaf.astype(dtype), model)


def make_update(kind: str, optimizer, *, dtype: str, accumulate: int, seed: int):
  """`update(state, batch) -> (state, sums)`.

  `state` is {"step", "model", "optimizer"}. With `accumulate` > 1 the batch is cut in
  as many parts whose gradients are summed: the same update in less memory.
  """

  def loss(model, batch, key):
    batch = _compute_type(batch, dtype)
    totals = objective.sums(kind, cast(model, dtype), batch, key)
    return totals["loss"], totals

  gradient = jax.grad(loss, has_aux=True)

  def update(state, batch):
    model = state["model"]
    key = jax.random.fold_in(jax.random.key(seed), state["step"])
    if accumulate == 1:
      grads, totals = gradient(model, batch, key)
    else:
      grads, totals = _in_parts(gradient, model, batch, key, accumulate)
    grads = jax.tree.map(lambda g: g / jnp.maximum(totals["count"], 1), grads)
    change, memory = optimizer.update(grads, state["optimizer"], model)
    model = optax.apply_updates(model, change)
    totals["gradient_norm"] = optax.tree.norm(grads)
    return {"step": state["step"] + 1, "model": model, "optimizer": memory}, totals

  return update


def make_evaluate(kind: str, *, dtype: str):
  """`evaluate(model, batch) -> sums`."""

  def evaluate(model, batch):
    return objective.sums(kind, cast(model, dtype), _compute_type(batch, dtype))

  return evaluate


def _compute_type(batch, dtype):
  def one(leaf):
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(one, batch)


def _in_parts(gradient, model, batch, key, parts):
  def cut(leaf):
    return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

  def add(total, part):
    batch, i = part
    found = gradient(model, batch, jax.random.fold_in(key, i))
    return jax.tree.map(jnp.add, total, found), None

  batches = jax.tree.map(cut, batch)
  first = jax.tree.map(lambda leaf: leaf[0], batches)
  shapes = jax.eval_shape(gradient, model, first, key)
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(add, zero, (batches, jnp.arange(parts)))[0]
