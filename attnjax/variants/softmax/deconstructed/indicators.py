"""The paper's indicators of attention maps, section of their analysis.

`attnjax.contract.weights(layer, x)` and a model's `weights` give the maps. The paper's
figures scale the first three to 0 ... 1 over the layers; these are the plain numbers.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def entropy(weights: Float[Array, "B N T T"]) -> Float[Array, "B N"]:
  """Computes -sum a ln a over all entries of a causal map."""
  some = jnp.where(weights > 0, weights, 1)
  return -jnp.sum(some * jnp.log(some), axis=(2, 3))


def concentration(weights: Float[Array, "B N T T"]) -> Float[Array, "B N"]:
  """Computes the Frobenius norm of a map."""
  return jnp.sqrt(jnp.sum(weights**2, axis=(2, 3)))


def head_diversity(weights: Float[Array, "B N T T"]) -> Float[Array, "B"]:
  """Computes the mean, over s <= t, of the deviation of a weight over the heads."""
  T = weights.shape[2]
  spread = jnp.tril(jnp.std(weights, axis=1))
  return 2 / (T * (T + 1)) * jnp.sum(spread, axis=(1, 2))


def sink(weights: Float[Array, "B N T T"]) -> Float[Array, "B N"]:
  """Computes the mean weight of the first token."""
  return weights[..., 0].mean(axis=2)


def local_focus(weights: Float[Array, "B N T T"], back: int) -> Float[Array, "B N"]:
  """Computes the mean weight of the token `back` places before; the paper's 0 ... 3."""
  return jnp.diagonal(weights, -back, axis1=2, axis2=3).mean(axis=2)
