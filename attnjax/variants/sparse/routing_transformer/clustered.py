"""The memory-lean algorithms: keys gathered by cluster, or for each query."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnjax import arguments, attention
from attnjax.core import masks, select
from attnjax.core.recurrence import linear
from attnjax.core.scores import Scores

# Shortest chunk of queries of the kind "past".
_SHORTEST = 32
# The position of memory keys: before all tokens.
_MEMORY = -1


class Problem(NamedTuple):
  """The arguments of both kinds beside q, k (B, N, T, H) and v (B, N, T, V).

  near_q, near_k (B, N, c, T): affinities to the centroids. memory: keys (N, c, M, H)
  and values. ids (B, T): documents, -1 at padding. valid (B, T): where False, a token
  is routed, but sees only the memory and is not seen. own: the score of a token with
  itself, or None.
  """

  near_q: Any
  near_k: Any
  memory: Any
  ids: Any
  valid: Any
  cluster_size: int
  causal: bool
  own: float | None
  scale: float
  impl: str


def balanced(q, k, v, problem):
  """Returns the clusters' summed outputs (B, N, T, V) and their number (B, N, T).

  Each centroid takes the nearest tokens of the whole sequence.
  """
  B, N, c, T = problem.near_q.shape
  w = problem.cluster_size
  real = problem.ids[:, None, None] >= 0
  index_q, real_q = select.top(jnp.where(real, problem.near_q, -jnp.inf), w)
  index_k, real_k = select.top(jnp.where(real, problem.near_k, -jnp.inf), w)

  def gather(x, index):
    return select.rows(x, index.reshape(B, N, -1)).reshape(B, N, c, w, -1)

  def masked(index):
    flags = jnp.broadcast_to(problem.valid[:, None, None], (B, N, c, T))
    return jnp.take_along_axis(flags, index, axis=3)

  # Level 0: memory, 1: tokens, 2: absent; a query sees the levels up to its own.
  level_q = masked(index_q).astype(jnp.int32)
  level_k = jnp.where(real_k & masked(index_k), 1, 2)
  lists = gather(q, index_q), gather(k, index_k), gather(v, index_k)
  out = listed(*lists, index_q, index_k, level_q, level_k, problem.memory, problem)
  weight = real_q.reshape(B, N, -1)
  rows = jnp.concatenate([out, jnp.ones_like(out[..., :1])], axis=-1)
  rows = rows.reshape(B, N, c * w, -1) * weight[..., None]
  total = select.added(rows, index_q.reshape(B, N, -1), T)
  return total[..., :-1], total[..., -1]


def past(q, k, v, problem, attend=None, shortest=_SHORTEST):
  """Returns outputs and numbers of clusters as `balanced`, for the kind "past".

  Each query sees the nearest keys of its past, in one cluster.

  Args:
    q: queries.
    k: keys.
    v: values.
    problem: the other arguments.
    attend: computes the attention of a chunk of queries, as `chunk`, the default.
    shortest: queries of a chunk, at least.
  """
  B, N, c, T = problem.near_q.shape
  w = problem.cluster_size
  size = min(T, max(w, shortest))
  end = -T % size
  ids = jnp.pad(problem.ids, ((0, 0), (0, end)), constant_values=-1)
  near_k = jnp.pad(problem.near_k, ((0, 0),) * 3 + ((0, end),))
  near_k = jnp.where(ids[:, None, None] >= 0, near_k, -jnp.inf)
  # Padding between tokens of a document does not end it.
  filled, _ = linear.spans(ids)
  documents = jnp.repeat(filled, N * c, axis=0)
  lists = select.so_far(near_k.reshape(B * N * c, -1), documents, w, size)
  lists = lists.reshape(B, N, c, -1, lists.shape[-1])
  cluster = jnp.pad(problem.near_q.argmax(axis=2), ((0, 0), (0, 0), (0, end)))
  query = jnp.pad(q, ((0, 0), (0, 0), (0, end), (0, 0)))
  attend = chunk if attend is None else attend

  @jax.checkpoint
  def visit(start):
    def cut(x, axis):
      return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    now = start + jnp.arange(size, dtype=jnp.int32)
    best = jax.lax.dynamic_index_in_dim(lists, start // size, 3, keepdims=False)
    rows = best, now, ids, cut(ids, 1), cut(cluster, 2)
    return attend(cut(query, 2), k, v, *rows, problem)

  out = jax.lax.map(visit, jnp.arange(0, T + end, size, dtype=jnp.int32))
  out = jnp.moveaxis(out, 0, 2).reshape(B, N, T + end, -1)[:, :, :T]
  alive = jnp.broadcast_to(problem.ids[:, None] >= 0, (B, N, T))
  return out * alive[..., None], alive.astype(out.dtype)


def chunk(q, k, v, listed, now, ids, here, cluster, problem):
  """Computes the attention of a chunk's queries, gathering keys for each, (B, N, t, V).

  Args:
    q: (B, N, t, H).
    k: (B, N, S, H).
    v: (B, N, S, V).
    listed: (B, N, c, M), the keys that queries of each cluster may see, best first; -1
      is none.
    now: (t,), the queries' places among the keys.
    ids: (B, S), the keys' documents.
    here: (B, t), the queries' documents.
    cluster: (B, N, t), the queries' clusters.
    problem: the other arguments.
  """
  own = jnp.take_along_axis(listed, cluster[..., None], axis=2)  # (B, N, t, M)
  index = _first(own, now, ids, here, problem.cluster_size)
  return listed_keys(q, k, v, index, now, cluster, problem)


def _first(listed, now, ids, here, count):
  """Returns the first `count` listed tokens that each query may see; -1 is none."""
  flat = jnp.maximum(listed, 0).reshape(*listed.shape[:2], -1)
  own = jnp.take_along_axis(ids[:, None], flat, axis=2).reshape(listed.shape)
  allowed = (
    (listed >= 0)
    & (listed <= now[None, None, :, None])
    & (own == here[:, None, :, None])
  )
  order = jnp.argsort(~allowed, axis=-1, stable=True)[..., :count]
  listed = jnp.where(allowed, listed, -1)
  return jnp.take_along_axis(listed, order, axis=-1)


def listed_keys(q, k, v, index, now, cluster, problem):
  """Computes the attention of each query to its own list of keys, (B, N, t, V).

  Args:
    q: (B, N, t, H).
    k: (B, N, S, H).
    v: (B, N, S, V).
    index: (B, N, t, M), the listed keys; -1 is none.
    now: (t,), the queries' places among the keys.
    cluster: (B, N, t), the cluster whose memory a query sees.
    problem: the other arguments.
  """
  shape = index.shape

  def gather(x):
    return select.rows(x, index.reshape(*shape[:2], -1)).reshape(*shape, -1)

  memory = tuple(remembered(x, cluster) for x in problem.memory)
  place = jnp.broadcast_to(now[:, None], (*shape[:3], 1))
  level = jnp.where(index < 0, 2, 1)
  lists = q[..., None, :], gather(k), gather(v)
  out = listed(*lists, place, index, jnp.ones_like(place), level, memory, problem)
  return out[..., 0, :]


def remembered(x, cluster):
  """Returns the memory (N, c, M, H) of each cluster in a list, (B, N, t, M, H)."""
  return jax.vmap(lambda x, a: x[a], in_axes=(0, 1), out_axes=1)(x, cluster)


def listed(
  q, k, v, place_q, place_k, level_q, level_k, memory, problem, documents=None
):
  """Computes attention in each list of w tokens and memory, (B, N, c, w, V).

  Args:
    q: (B, N, c, w, H).
    k: (B, N, c, m, H).
    v: (B, N, c, m, V).
    place_q: (B, N, c, w), places of the queries in time.
    place_k: (B, N, c, m).
    level_q: (B, N, c, w); a query sees the keys of its level and of those below.
    level_k: (B, N, c, m); the level of memory is 0.
    memory: keys and values that all queries of a list see.
    problem: the other arguments.
    documents: of the queries (B, N, c, w) and keys (B, N, c, m); all see all if None.
  """
  lead, w = q.shape[:3], q.shape[3]

  def whole(x, kept):
    kept = jnp.broadcast_to(kept, (*lead, *kept.shape[-2:])).astype(x.dtype)
    x = jnp.concatenate([kept, x], axis=3)
    return x.reshape(-1, x.shape[3], 1, x.shape[4])

  key, value = whole(k, memory[0]), whole(v, memory[1])
  ahead = [(0, 0)] * 3 + [(memory[0].shape[-2], 0)]
  place_k = jnp.pad(place_k, ahead, constant_values=_MEMORY)
  level_k = jnp.pad(level_k, ahead)

  def flat(x):
    return x.reshape(-1, x.shape[-1]).astype(jnp.int32)

  mask = select.AtMost(flat(level_q), flat(level_k))
  mask = mask & masks.Causal() if problem.causal else mask
  if documents is not None:
    ours, theirs = flat(documents[0]), flat(jnp.pad(documents[1], ahead))
    remembers = select.AtMost(jnp.zeros_like(ours), flat(level_k))
    mask = mask & (remembers | masks.Segments(ours, theirs))
  scores = Scores(mask, query_positions=flat(place_q), key_positions=flat(place_k))
  if problem.own is not None:

    def suppressed(score, b, n, q, k):
      return jnp.where(q == k, problem.own, score)

    scores = arguments.with_function(
      scores, suppressed, jnp.promote_types(q.dtype, "f4")
    )
  query = q.reshape(-1, w, 1, q.shape[-1])
  how = {"scale": problem.scale, "impl": problem.impl}
  return attention.attend(query, key, value, scores, **how)[0].reshape(*lead, w, -1)
