"""Selection of aligned groups of keys as wholes, without an array of all pairs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from attnjax.core.recurrence import linear


class Blocks(NamedTuple):
  """The groups: their size, the number S of keys, and the keys' documents (B, S)."""

  size: int
  length: int
  ids: Any


def listed(index, time, own, now, here, keep_keys: int, blocks: Blocks):
  """Returns the keys of groups that may be kept, and whether each query keeps them.

  A group that a query keeps has more than half of its keys among the listed ones: of M
  listed keys there are fewer than 2 M such keys.

  Args:
    index: (R, M), the keys listed for each chunk, the most important first; -1 is none.
    time: (R, M), their times, after all queries if there is none.
    own: (R, M), their documents.
    now: (R, t), the times of the queries.
    here: (R, t), their documents.
    keep_keys: keys that a query selects, at most.
    blocks: the groups.

  Returns:
    The index (R, G size) of these keys, -1 for none, and (R, t, G size).
  """
  size, S, _ = blocks
  size = min(size, S)
  M, total = index.shape[1], -(-S // size)
  # A full group needs this many listed keys; the last one may be short.
  most = min(total, M // (size // 2 + 1) + 1)

  def chunk(part):
    index, time, own, now, here = part
    may = (time <= now[:, None]) & (own == here[:, None]) & (here >= 0)[:, None]
    kept = may & (jnp.cumsum(may, axis=1) <= keep_keys)
    order = jnp.argsort(time)
    group = jnp.where(index < 0, total, index // size)[order]
    begin, end = (jnp.searchsorted(group, group, side=side) for side in _SIDES)
    length = jnp.minimum(size, S - size * group)
    full = (begin == jnp.arange(M)) & (2 * (end - begin) > length) & (group < total)
    place = jnp.argsort(~full, stable=True)[:most]
    sums = jnp.pad(jnp.cumsum(kept[:, order], axis=1), ((0, 0), (1, 0)))
    count = sums[:, end[place]] - sums[:, begin[place]]
    whole = (2 * count > length[place]) & full[place]
    return jnp.where(full[place], group[place], -1), whole

  groups, whole = jax.lax.map(chunk, (index, time, own, now, here))
  keys = groups[..., None] * size + jnp.arange(size, dtype=jnp.int32)
  keys = jnp.where((groups[..., None] >= 0) & (keys < S), keys, -1)
  return keys.reshape(len(keys), -1), jnp.repeat(whole, size, axis=2)


_SIDES = ("left", "right")


def of_documents(
  kept: Bool[Array, "B K S"], documents: Int[Array, "B S"], size: int
) -> Bool[Array, "B K S"]:
  """Returns the keys of groups of which their document keeps more than half.

  Args:
    kept: the selection of each document.
    documents: of the keys, -1 for what is not seen.
    size: keys of a group.
  """
  S = documents.shape[1]
  group = jnp.arange(S) // size
  filled, real = linear.spans(documents)
  change = (filled[:, 1:] != filled[:, :-1]) | (group[1:] != group[:-1])
  run = jnp.cumsum(jnp.pad(change, ((0, 0), (1, 0))), axis=1)

  def counts(kept, run):
    return jax.ops.segment_sum(kept.astype(jnp.int32), run, S)[run]

  count = jax.vmap(jax.vmap(counts, (0, None)))(kept, run)
  length = jnp.minimum(size, S - size * group)
  return (2 * count > length) & real[:, None]
