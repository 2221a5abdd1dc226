"""SnapKV and Ada-SnapKV: the keys of a prompt that are kept for what follows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core import select
from attnjax.variants.decode.sparse_frontier import window as windows


def importance(
  q: Float[Array, "B W N H"],
  k: Float[Array, "B S K H"],
  lengths: Int[Array, "B"],
  *,
  pool: int = 21,
  adaptive: bool = False,
) -> Float[Array, "B K S"]:
  """Computes how much the last queries attend to each key and its neighbours.

  The sum over queries of the mean over a key head's query heads, or, if `adaptive`,
  the greatest over both; then the mean over `pool` keys around, zeros beyond the ends.

  Args:
    q: queries of the last W places.
    k: keys by their places.
    lengths: tokens of each row.
    pool: an odd number of keys.
    adaptive: whether it is Ada-SnapKV's.
  """
  (B, W, N, _), (S, K) = q.shape, k.shape[1:3]
  weights = windows.weights(q, k, lengths).reshape(B, K, N // K, W, S)
  mass = weights.max(axis=(2, 3)) if adaptive else weights.mean(axis=2).sum(axis=2)
  around = (0, 0), (0, 0), (pool // 2, pool // 2)
  add = jax.lax.reduce_window(mass, 0.0, jax.lax.add, (1, 1, pool), (1, 1, 1), around)
  return add / pool


def keep(
  importance: Float[Array, "B K S"],
  lengths: Int[Array, "B"],
  *,
  capacity: int = 1024,
  local: int = 128,
  first: int = 4,
) -> Bool[Array, "B K S"]:
  """Chooses the keys that SnapKV keeps: `capacity` of each key head.

  Args:
    importance: of the keys.
    lengths: tokens of each row.
    capacity: keys of a key head.
    local: the last ones, always kept.
    first: the first ones, always kept.
  """
  scores, real = _forced(importance, lengths, local, first)
  return select.kept(scores, real, capacity)


def keep_adaptive(
  importance: Float[Array, "B K S"],
  lengths: Int[Array, "B"],
  *,
  capacity: int = 1024,
  local: int = 128,
  first: int = 4,
  floor: float = 0.2,
) -> Bool[Array, "B K S"]:
  """Chooses the keys that Ada-SnapKV keeps: `capacity` of each key head in the mean.

  Each key head first keeps `least(...)` keys; all that is left goes to the greatest
  importance of all key heads.

  Args:
    importance: of the keys, and so are the next four as in `keep`.
    lengths: tokens of each row.
    capacity: keys of a key head, in the mean.
    local: last keys.
    first: first keys.
    floor: share of the capacity that each key head keeps at least.
  """
  B, K, S = importance.shape
  scores, real = _forced(importance, lengths, local, first)
  real = jnp.broadcast_to(real, scores.shape)
  own = least(capacity, local, first, floor)
  kept = select.kept(scores, real, own)
  rest, free = ((x.reshape(B, K * S)) for x in (scores, real & ~kept))
  more = select.kept(rest, free, K * (capacity - own))
  return kept | more.reshape(B, K, S)


def least(capacity: int, local: int, first: int, floor: float) -> int:
  """Returns how many keys each key head of Ada-SnapKV keeps at least."""
  return max(int(capacity * floor), local + first)


def check(capacity: int, window: int, pool: int, local: int, first: int) -> None:
  """Raises ValueError for sizes that do not fit each other."""
  if min(window, pool) < 1 or min(capacity, local, first) < 0:
    raise ValueError(
      f"window = {window}, pool = {pool}: at least 1; capacity = {capacity}, local ="
      f" {local}, first = {first}: at least 0"
    )
  if pool % 2 == 0:
    raise ValueError(f"pool = {pool}; it is odd, as many keys on either side")
  if capacity < local + first:
    raise ValueError(
      f"capacity = {capacity}; at least local + first = {local + first} keys, which"
      " are always kept"
    )


def _forced(importance, lengths, local, first):
  """Returns the scores, inf where a key is always kept, and which keys are real."""
  place, lengths = jnp.arange(importance.shape[2]), lengths[:, None, None]
  forced = (place < first) | (place >= lengths - local)
  scores = jnp.where(forced, jnp.inf, jax.lax.stop_gradient(importance))
  return scores, place < lengths
