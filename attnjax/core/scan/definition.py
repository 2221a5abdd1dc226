"""The definition: a softmax over the prefix in each row of a (T, T) matrix."""

import jax
import jax.numpy as jnp

from attnjax.core.scan.prefix import beginnings, check
from attnjax.core.scan.state import State
from attnjax.core.softmax import wide


def reference(scores, values, *, initial=None, segment_ids=None):
  """What `prefix` computes; the arguments are its."""
  check(scores, values, initial)
  scores = scores.astype(jnp.promote_types(wide(scores), wide(values)))
  (B, T, N), E = scores.shape, values.shape[3]
  start = State.empty((B, N, E), scores.dtype) if initial is None else initial
  # The initial state is one more token: its score is its lse.
  s = jnp.concatenate([start.lse[:, None].astype(scores.dtype), scores], axis=1)
  v = jnp.concatenate([start.out[:, None].astype(s.dtype), values], axis=1)
  row, column = jnp.arange(T)[:, None], jnp.arange(-1, T)
  ids = jnp.zeros((1, T), jnp.int32) if segment_ids is None else segment_ids
  seen = (column <= row) & (column >= beginnings(ids)[..., None])
  power = jnp.where(seen[:, :, :, None], s[:, None], -jnp.inf)
  some = (power > -jnp.inf).any(axis=2)
  power = jnp.where(some[:, :, None], power, 0)  # no NaN in an empty row's gradient
  weight = jnp.where(some[:, :, None], jax.nn.softmax(power, axis=2), 0)
  lse = jnp.where(some, jax.nn.logsumexp(power, axis=2), -jnp.inf)
  out = jnp.einsum("btsn,bsne->btne", weight, v)
  return out.astype(values.dtype), lse, State(lse[:, -1], out[:, -1])
