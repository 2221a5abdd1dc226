"""Linear attention of a sequence cut into pieces, which exchange only states.

Each piece computes its output from a zero state, and its `Transfer`. The states with
which the pieces begin are a scan over transfers by `combine`, on one device or over
many; `past` adds what a piece's tokens read from the state with which it begins. The
products within the pieces do not wait for it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence.linear.chunks import each_token


class Transfer(NamedTuple):
  """The effect of a piece of a sequence on the state S: exp(log_decay) S + state.

  Both may have leading axes of pieces.

  Attributes:
    log_decay: (B, N), of the whole piece; -inf if a document begins in it.
    state: (B, N, H, E), the state after the piece from a zero state before it.
  """

  log_decay: Any
  state: Any

  def __call__(self, state: Float[Array, "*P B N H E"]) -> Float[Array, "*P B N H E"]:
    """Returns the state after the piece."""
    return jnp.exp(self.log_decay)[..., None, None] * state + self.state


def combine(first: Transfer, then: Transfer) -> Transfer:
  """Returns the transfer of two consecutive pieces; it is associative."""
  return Transfer(first.log_decay + then.log_decay, then(first.state))


def inherited(
  q: Float[Array, "B T N H"],
  log_decay: Float[Array, "#B #T #N"] | None = None,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  before: Int[Array, "B"] | None = None,
) -> Float[Array, "B T N"]:
  """Returns the log weight with which each token reads the state S before the piece.

  With the piece's own (out, state) from a zero state, those of the whole sequence are
  out + scale exp(inherited) * (q S), whose second term is `past`, and
  Transfer(inherited[:, -1], state)(S).

  Args:
    q: the piece's queries, for their shape and type.
    log_decay: as in `chunked`.
    segment_ids: of the piece.
    before: the segment of the token before the piece; None: as its first token's.
  """
  B, T, N = q.shape[:3]
  total = jnp.cumsum(each_token(log_decay, q).astype(accumulator_dtype(q)), axis=1)
  total = jnp.broadcast_to(total, (B, T, N))
  if segment_ids is None:
    return total
  before = segment_ids[:, 0] if before is None else before
  same = jnp.cumprod(segment_ids == before[:, None], axis=1, dtype=jnp.int32)
  return jnp.where(same[..., None] > 0, total, -jnp.inf)


def past(
  q: Float[Array, "B T N H"],
  state: Float[Array, "B N H E"],
  log_power: Float[Array, "B T N"],
  *,
  scale: float = 1.0,
) -> Float[Array, "B T N E"]:
  """Returns what tokens read from a state, scale exp(log_power) * (q S), in its type.

  Args:
    q: the piece's queries.
    state: the state before the piece.
    log_power: from `inherited`.
    scale: as in `chunked`.
  """
  seen = jnp.einsum("btnh,bnhe->btne", q.astype(state.dtype), state)
  return scale * jnp.exp(log_power)[..., None] * seen
