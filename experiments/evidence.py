"""What a claim is measured with: its record, and a small trainer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

REPORTED = "reported"  # the rule of a number that has no bound


@dataclasses.dataclass(frozen=True)
class Claim:
  """One statement of a paper and what came out here.

  Attributes:
    name: the statement, in a few words.
    measured: the number.
    rule: what the number must satisfy, e.g. "<= 0.125".
    holds: whether it does.
  """

  name: str
  measured: float
  rule: str
  holds: bool


def at_most(name: str, measured: float, bound: float) -> Claim:
  """The claim that a number is not above a bound."""
  return Claim(name, float(measured), f"<= {bound:g}", bool(measured <= bound))


def at_least(name: str, measured: float, bound: float) -> Claim:
  """The claim that a number is not below a bound."""
  return Claim(name, float(measured), f">= {bound:g}", bool(measured >= bound))


def reported(name: str, measured: float) -> Claim:
  """A number without a bound, for the reader to judge."""
  return Claim(name, float(measured), REPORTED, True)


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
    seed: of the batches.
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
  """The weight with a standard deviation of gain / inputs^0.5; constants as they are.

  Papers begin with 0.02, for hundreds of channels: a few dozen then learn nothing for
  long.
  """
  deviation = np.asarray(weight).std()
  return weight * (gain * inputs**-0.5 / deviation) if deviation else weight
