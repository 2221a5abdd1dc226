"""The kind "past" for kernels: queries of one cluster form groups that share keys.

In a chunk of tokens the queries of a cluster fill groups of `ROWS`, the last one in
part. A group sees a list of keys: the best of its cluster before the chunk, and the
chunk's, ranked. The keys that a query sees are those of its past up to a rank, so that
the mask is of two numbers a token, and the problem a batch of small attentions.
"""

import jax
import jax.numpy as jnp

from attnjax.core import select
from attnjax.variants.sparse.routing_transformer import clustered

ROWS = 16  # queries of a group: the fewest rows that matrix units multiply


def past(q, k, v, problem):
  """Returns outputs and numbers of clusters, as `clustered.past`."""
  shortest = ROWS * problem.near_q.shape[2]
  return clustered.past(q, k, v, problem, attend=_chunk, shortest=shortest)


def _chunk(q, k, v, listed, now, ids, here, cluster, problem):
  """Computes the attention of a chunk's queries; arguments as in `clustered.chunk`."""
  (B, N, t, _), M = q.shape, listed.shape[3]
  slot, own = _groups(cluster, listed.shape[2])
  groups = own.shape[2]
  token = _tokens(slot, groups * ROWS)
  present = token < t
  token = jnp.minimum(token, t - 1)
  shape = B, N, groups, ROWS
  here = jnp.take_along_axis(here[:, None], token.reshape(B, 1, -1), axis=2)
  here = jnp.where(present, here.reshape(token.shape), -1).reshape(shape)
  place_q = now[token].reshape(shape)
  listed = jnp.take_along_axis(listed, own[..., None], axis=2)  # (B, N, groups, M)
  index = listed.reshape(B, N, -1)
  document = jnp.take_along_axis(ids, jnp.maximum(index.reshape(B, -1), 0), axis=1)
  document = jnp.where(listed < 0, -1, document.reshape(listed.shape))
  may = document[..., None, :] == here[..., None]
  may &= (listed[..., None, :] <= place_q[..., None]) & (here[..., None] >= 0)
  # Levels: 0 is memory, r + 1 the key of the rank r; absent keys have the last one.
  level_q = 1 + select.last_place(may, problem.cluster_size)
  level_k = jnp.where(listed < 0, M + 1, 1 + jnp.arange(M, dtype=jnp.int32))
  query = select.rows(q, token).reshape(*shape, -1)
  key, value = (select.rows(x, index).reshape(*listed.shape, -1) for x in (k, v))
  memory = tuple(clustered.remembered(x, own) for x in problem.memory)
  lists = query, key, value, place_q, listed, level_q, level_k
  out = clustered.listed(*lists, memory, problem, documents=(here, document))
  return select.rows(out.reshape(B, N, groups * ROWS, -1), slot)


def _groups(cluster, clusters):
  """Returns the slots of the queries, (B, N, t), and the groups' clusters, (B, N, G).

  G is the number of groups that any distribution of the queries needs at most.
  """
  t = cluster.shape[2]
  member = cluster[..., None] == jnp.arange(clusters)
  rank = jnp.take_along_axis(jnp.cumsum(member, axis=2), cluster[..., None], axis=3)
  number = -(-member.sum(axis=2) // ROWS)
  ends = jnp.cumsum(number, axis=2)
  first = jnp.take_along_axis(ends - number, cluster, axis=2)
  most = min(t, (t + min(t, clusters) * (ROWS - 1)) // ROWS)
  own = (jnp.arange(most)[:, None] >= ends[:, :, None]).sum(axis=3)
  return first * ROWS + rank[..., 0] - 1, jnp.minimum(own, clusters - 1)


def _tokens(slot, slots):
  """Returns the query of each slot, (B, N, slots); t where a slot is empty."""
  t = slot.shape[2]

  def one(slot):
    return jnp.full(slots, t, jnp.int32).at[slot].set(jnp.arange(t, dtype=jnp.int32))

  return jax.vmap(jax.vmap(one))(slot)
