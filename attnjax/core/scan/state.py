"""What a stretch of tokens amounts to, and how stretches join."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.softmax import wide

# For the log of 0: its power is 0, and the difference of two of them is not NaN.
LOWEST = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The element (m, u, w) of a stretch of tokens, with u = 1.

  Attributes:
    lse: (*B, N), log of the sum of exp(scores); -inf for no tokens.
    out: (*B, N, E), the weighted mean of their values; 0 for no tokens.
  """

  lse: Any
  out: Any

  @classmethod
  def empty(cls, shape: tuple[int, ...], dtype: Any = jnp.float32) -> "State":
    """The state of no tokens; shape (*B, N, E)."""
    return cls(jnp.full(shape[:-1], -jnp.inf, dtype), jnp.zeros(shape, dtype))


def combine(first: State, second: State) -> State:
  """The state of two stretches, of whatever stream or device, in any order."""
  a, b = (jnp.maximum(x.lse, LOWEST) for x in (first, second))
  lse = jnp.logaddexp(a, b)
  a, b = (jnp.exp(x - lse)[..., None] for x in (a, b))
  return State(finite(lse), a * first.out + b * second.out)


def step(
  scores: Float[Array, "*B N"], values: Float[Array, "*B N E"], state: State
) -> State:
  """The state with one token more; its `out` is the token's result."""
  dtype = jnp.promote_types(wide(values), state.out.dtype)
  return combine(state, State(scores.astype(dtype), values.astype(dtype)))


def finite(lse):
  """Gives lse with -inf for what is as low as LOWEST."""
  return jnp.where(lse > LOWEST / 2, lse, -jnp.inf)
