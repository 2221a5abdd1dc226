"""The prompt's step under a cache policy that chooses among the prompt's own keys.

A policy with a method `prefill` is asked once in a layer, for all queries of the
prompt: a selection depends on all of it, so the prompt is the first step, undivided.

The policy is told of one document a row, whose tokens lie at the places 0, 1, 2, ...,
and zeros after them. Where all rows are so, its mask goes to the layer as it is, with
its lists of blocks. Else, with several documents in a row or padding between tokens,
it is asked for one document after the other, and the layer gets one boolean array of
T x T for each head: O(B N T^2) memory. A document's tokens are those of equal ids, as
in a prompt without a policy.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from attnjax.core.masks import Dense, Mask


def chooses(policy: Any) -> bool:
  """Returns whether a policy chooses keys in the prompt's step."""
  return hasattr(policy, "prefill")


def mixed(
  policy: Any,
  q: Array,
  k: Array,
  ids: Int[Array, "B T"] | None,
  index: Any,
  mix: Callable[[Mask], Array],
) -> Array:
  """Returns mix(mask) for the mask of what a prompt's queries see.

  Args:
    policy: that chooses.
    q: (B, T, N, H).
    k: (B, T, K, H).
    ids: the tokens' documents, -1 at padding; None if there is one, without padding.
    index: the layer's number.
    mix: the layer's mechanism; it adds that tokens see their own document, and no later
      token.
  """
  B, T = q.shape[:2]
  if ids is None:
    return mix(policy.prefill(q, k, jnp.full((B,), T, jnp.int32), index))
  count = (ids >= 0).sum(axis=1, dtype=jnp.int32)
  want = jnp.where(_before(count, T), ids[:, :1], -1)
  return jax.lax.cond(
    (ids == want).all(),
    lambda: mix(_asked(policy, q, k, count, index)),
    lambda: mix(Dense(_by_document(policy, q, k, ids, index))),
  )


def _before(count: Int[Array, "B"], T: int) -> Bool[Array, "B T"]:
  return jnp.arange(T) < count[:, None]


def _asked(policy, q, k, count, index) -> Mask:
  """Returns the policy's mask of the first `count` tokens."""
  real = _before(count, q.shape[1])[..., None, None]
  return policy.prefill(jnp.where(real, q, 0), jnp.where(real, k, 0), count, index)


def _by_document(policy, q, k, ids, index) -> Bool[Array, "B N T T"]:
  """Returns what is seen, asking the policy for one document of each row at a time."""
  (B, T), N = ids.shape, q.shape[2]

  def one(state):
    left, seen = state
    own = jnp.take_along_axis(ids, jnp.argmax(left, axis=1, keepdims=True), axis=1)
    mine = left & (ids == own)
    order = jnp.argsort(~mine, axis=1, stable=True)[..., None, None]
    count = mine.sum(axis=1, dtype=jnp.int32)
    own_q, own_k = (jnp.take_along_axis(x, order, axis=1) for x in (q, k))
    part = _asked(policy, own_q, own_k, count, index).dense(T, T)
    place = jnp.maximum(jnp.cumsum(mine, axis=1) - 1, 0)
    part = jnp.broadcast_to(part, (B, N, T, T))
    for axis, at in ((2, place[:, None, :, None]), (3, place[:, None, None])):
      part = jnp.take_along_axis(part, at, axis=axis)
    # What is said of other documents' keys is anything: the layer does not see them.
    return left & ~mine, seen | part & mine[:, None, :, None]

  nothing = jnp.zeros((B, N, T, T), bool)
  return jax.lax.while_loop(lambda state: state[0].any(), one, (ids >= 0, nothing))[1]
