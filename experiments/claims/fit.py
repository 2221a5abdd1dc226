"""A trainer of a few lines for small models."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax


def fit(
  loss: Callable[[Any, jax.Array], jax.Array],
  model: Any,
  *,
  steps: int,
  optimizer: optax.GradientTransformation,
  seed: int = 0,
):
  """Trains `model` (any pytree of float arrays) and returns it.

  Args:
    loss: (model, key) -> scalar; it draws its own batch from the key.
    model: the parameters; they are not donated.
    steps: number of updates; step i uses fold_in(key(seed), i).
    optimizer: an optax chain.
    seed: the seed of the batches.
  """

  def update(carry, i):
    model, state = carry
    key = jax.random.fold_in(jax.random.key(seed), i)
    value, gradient = jax.value_and_grad(loss)(model, key)
    change, state = optimizer.update(gradient, state, model)
    return (optax.apply_updates(model, change), state), value

  @jax.jit
  def run(model):
    start = model, optimizer.init(model)
    return jax.lax.scan(update, start, jax.numpy.arange(steps))[0][0]

  return run(model)


def spread(weight: jax.Array, inputs: int, gain: float = 1.0) -> jax.Array:
  """Rescales a weight to the deviation gain / inputs^0.5; constants stay as they are.

  Papers begin with 0.02, for hundreds of channels: a few dozen channels then learn
  nothing for long.
  """
  deviation = np.asarray(weight).std()
  return weight * (gain * inputs**-0.5 / deviation) if deviation else weight
