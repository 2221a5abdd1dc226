"""Kar3, the optimiser of the official code: signs of the gradient and two momenta."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SignState(NamedTuple):
  """The momenta, one tree for each beta."""

  momenta: tuple[Any, ...]


def scale_by_signs(
  betas: tuple[float, ...] = (0.5, 0.95),
) -> optax.GradientTransformation:
  """Returns the transformation of g to sign(g) + sum_i sign(m_i).

  Then m_i <- beta_i m_i + (1 - beta_i) g.
  """

  def init(params):
    return SignState(tuple(jax.tree.map(jnp.zeros_like, params) for _ in betas))

  def update(updates, state, params=None):
    del params
    signs = jax.tree.map(
      lambda *parts: sum(map(jnp.sign, parts)), updates, *state.momenta
    )
    momenta = tuple(
      jax.tree.map(lambda m, g, b=beta: b * m + (1 - b) * g, momentum, updates)
      for beta, momentum in zip(betas, state.momenta)
    )
    return signs, SignState(momenta)

  return optax.GradientTransformation(init, update)


def kar3(
  learning_rate: optax.ScalarOrSchedule, betas: tuple[float, ...] = (0.5, 0.95)
) -> optax.GradientTransformation:
  """Returns the optimiser p <- p - rate (sign(g) + sign(m1) + sign(m2)).

  The official rate is 0.001215.
  """
  return optax.chain(scale_by_signs(betas), optax.scale_by_learning_rate(learning_rate))
