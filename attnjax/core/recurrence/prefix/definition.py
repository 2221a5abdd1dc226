"""The reference of prefix softmax: a softmax over each row of a (T, T) matrix."""

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence.prefix.prefix import beginnings, check
from attnjax.core.recurrence.prefix.state import State


def reference(scores, values, *, initial=None, segment_ids=None):
  """Computes `prefix` by its definition, with the same arguments but `form`."""
  check(scores, values, initial)
  scores = scores.astype(
    jnp.promote_types(accumulator_dtype(scores), accumulator_dtype(values))
  )
  (B, T, N), E = scores.shape, values.shape[3]
  start = State.empty((B, N, E), scores.dtype) if initial is None else initial
  start = jax.tree.map(lambda x: x[:, None].astype(scores.dtype), start)
  # The initial state is one more token, which counts `total` times.
  s = jnp.concatenate([start.top, scores], axis=1)
  often = jnp.concatenate([start.total, jnp.ones_like(scores)], axis=1)
  v = jnp.concatenate([start.out, values.astype(s.dtype)], axis=1)
  v = jnp.where(s[..., None] > -jnp.inf, v, 0)
  row, column = jnp.arange(T)[:, None], jnp.arange(-1, T)
  ids = jnp.zeros((1, T), jnp.int32) if segment_ids is None else segment_ids
  seen = (column <= row) & (column >= beginnings(ids)[..., None])
  power = jnp.where(seen[:, :, :, None], s[:, None], -jnp.inf)
  top = jax.lax.stop_gradient(power.max(axis=2))
  some = top > -jnp.inf
  # No NaN in an empty row's gradient.
  power = jnp.where(some[:, :, None], power - jnp.where(some, top, 0)[:, :, None], 0)
  weight = jnp.where(some[:, :, None], jnp.exp(power), 0) * often[:, None]
  total = weight.sum(axis=2)
  weight = weight / jnp.where(some, total, 1)[:, :, None]
  out = jnp.einsum("btsn,bsne->btne", weight, v)
  rows = State(top, total, out)
  last = jax.tree.map(lambda x: x[:, -1], rows) if T else initial
  return out.astype(values.dtype), rows.lse, last
