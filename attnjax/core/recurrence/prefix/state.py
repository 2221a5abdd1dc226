"""The running (log-sum-exp, weighted mean) of a span of tokens, and its combination."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The element (m, u, w) of a span of tokens, with the mean w / u in place of w.

  lse = m + log u would not do in place of m and u: a large m would lose u to rounding.

  Attributes:
    top: (*B, N), the greatest of the scores; -inf for no tokens. Derivatives take it
      for a constant: results depend on exp(top) total, and total takes the change.
    total: (*B, N), the sum of exp(scores - top); 0 for no tokens.
    out: (*B, N, E), the weighted mean of their values; 0 for no tokens.
  """

  top: Any
  total: Any
  out: Any

  @classmethod
  def empty(cls, shape: tuple[int, ...], dtype: Any = jnp.float32) -> "State":
    """Returns the state of no tokens; its `out` has the shape (*B, N, E)."""
    top = jnp.full(shape[:-1], -jnp.inf, dtype)
    return cls(top, jnp.zeros_like(top), jnp.zeros(shape, dtype))

  @property
  def lse(self) -> jax.Array:
    """Returns (*B, N), the log of the sum of exp(scores); -inf for no tokens."""
    some = self.total > 0
    return jnp.where(some, self.top + jnp.log(jnp.where(some, self.total, 1)), -jnp.inf)


def combine(first: State, second: State) -> State:
  """Combines the states of two spans, of any stream or device, in any order."""
  top = jax.lax.stop_gradient(jnp.maximum(first.top, second.top))
  shift = jnp.where(top > -jnp.inf, top, 0)
  a, b = (jnp.exp(x.top - shift) * x.total for x in (first, second))
  total = a + b
  some = jnp.where(total > 0, total, 1)
  a, b = ((x / some)[..., None] for x in (a, b))
  return State(top, total, a * first.out + b * second.out)


def step(
  scores: Float[Array, "*B N"], values: Float[Array, "*B N E"], state: State
) -> State:
  """Returns the state with one token more; its `out` is the token's result."""
  dtype = jnp.promote_types(accumulator_dtype(values), state.out.dtype)
  scores = scores.astype(dtype)
  some = jnp.where(scores > -jnp.inf, 1, 0).astype(dtype)
  values = jnp.where(some[..., None] > 0, values, 0).astype(dtype)
  return combine(state, State(scores, some, values))
