"""Attention of a prompt's last queries to all of its keys, by which keys are chosen."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def last_queries(
  q: Float[Array, "B T N H"], lengths: Int[Array, "B"], window: int
) -> Float[Array, "B W N H"]:
  """Gathers the queries of the last W = min(window, T) places of each row.

  Args:
    q: queries.
    lengths: tokens of each row; before a row's first token stands its first query.
    window: how many.
  """
  W = min(window, q.shape[1])
  places = jnp.maximum(_places(lengths, W), 0)
  return jnp.take_along_axis(q, places[:, :, None, None], axis=1)


def weights(
  q: Float[Array, "B W N H"], k: Float[Array, "B S K H"], lengths: Int[Array, "B"]
) -> Float[Array, "B N W S"]:
  """Computes the causal softmax weights of the last queries, float32, no gradient.

  Args:
    q: the queries at the places lengths - W, ..., lengths - 1; those before place 0
      have no weights.
    k: keys by their places; K divides N.
    lengths: tokens of each row.
  """
  q, k = (jax.lax.stop_gradient(x) for x in (q, k))
  (B, W, N, H), (S, K) = q.shape, k.shape[1:3]
  own = q.reshape(B, W, K, N // K, H)
  score = jnp.einsum(
    "bwkgh,bskh->bkgws", own, k.astype(q.dtype), preferred_element_type=jnp.float32
  )
  score = H**-0.5 * score.reshape(B, N, W, S)
  seen = (jnp.arange(S) <= _places(lengths, W)[..., None])[:, None]
  score = jnp.where(seen, score, -jnp.inf)
  return jnp.where(seen, jax.nn.softmax(score, axis=-1, where=seen), 0.0)


def diagonals(
  weights: Float[Array, "B N W S"], lengths: Int[Array, "B"]
) -> Float[Array, "B N S"]:
  """Computes the sums of weights at equal distances of query and key, 0, ..., S - 1."""
  W, S = weights.shape[2:]
  keys = _places(lengths, W)[..., None] - jnp.arange(S)
  keys = keys[:, None]
  found = jnp.take_along_axis(weights, jnp.clip(keys, 0, S - 1), axis=3)
  return jnp.where(keys >= 0, found, 0.0).sum(axis=2)


def _places(lengths: Int[Array, "B"], W: int) -> Int[Array, "B W"]:
  return lengths[:, None] - W + jnp.arange(W, dtype=jnp.int32)
