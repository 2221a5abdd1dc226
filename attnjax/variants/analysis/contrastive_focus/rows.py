"""The attention of one query to a picture, beside kernels that keep no weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.contract import Case, check_known
from attnjax.core import definition

IMPLEMENTATIONS = ("reference", "xla")


def attention_row(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  *,
  index: Int[Array, "B"],
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B S"]:
  """Computes the mean over heads of one query's causal attention weights, float32.

  Args:
    q: queries.
    k: keys; query t sees the keys s <= t + S - T.
    index: the query of each example, 0 to T - 1.
    segment_ids: tokens see their own segment; negative ids see nothing.
    kv_segment_ids: the keys' segments; `segment_ids` if None.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  ids = {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids}
  if impl == "reference":
    return reference_attention_row(q, k, index=index, scale=scale, **ids)
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  scale = H**-0.5 if scale is None else scale
  seen = jnp.arange(S) <= index[:, None] + S - T
  if segment_ids is not None:
    own = jnp.take_along_axis(segment_ids, index[:, None], axis=1)
    others = segment_ids if kv_segment_ids is None else kv_segment_ids
    seen &= (own == others) & (own >= 0)
  # Whatever stands at padding has no part in the scores.
  one = jnp.take_along_axis(q, index[:, None, None, None], axis=1)
  one = jnp.where(seen.any(axis=1)[:, None, None, None], one, 0)
  k = jnp.where(seen[..., None, None], k, 0)
  score = scale * jnp.einsum(
    "bkgh,bskh->bkgs",
    one.reshape(B, K, N // K, H),
    k,
    preferred_element_type=jnp.float32,
  )
  return _softmax(score, seen[:, None, None]).mean(axis=(1, 2))


def reference_attention_row(q, k, *, index, scale=None, **ids):
  """Computes the definition: the weights of all queries, of which one is taken."""
  N, T, S = q.shape[2], q.shape[1], k.shape[1]
  seen = jnp.broadcast_to(
    definition.visible(T, S, causal=True, **ids), (len(q), N, T, S)
  )
  key = jnp.where(seen.any(axis=(1, 2))[..., None, None], definition.wide(k), 0)
  query = jnp.where(seen.any(axis=(1, 3))[..., None, None], definition.wide(q), 0)
  key = jnp.repeat(key, N // k.shape[2], axis=2)
  score = jnp.einsum("btnh,bsnh->bnts", query, key)
  score = score * (q.shape[3] ** -0.5 if scale is None else scale)
  weight, _ = definition.weights(score, seen)
  chosen = jax.nn.one_hot(index, T, dtype=weight.dtype)
  return jnp.einsum("bnts,bt->bs", weight, chosen) / N


def _softmax(score, seen):
  """Returns the weights of what is seen; 0 in a row that sees nothing."""
  top = jnp.max(score, axis=-1, keepdims=True, where=seen, initial=-jnp.inf)
  top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
  weight = jnp.where(seen, jnp.exp(jnp.where(seen, score - top, 0)), 0)
  total = weight.sum(axis=-1, keepdims=True)
  return weight / jnp.where(total > 0, total, 1)


def _at(*places):
  return {"index": lambda key: jnp.array(places, jnp.int32)}


def _segments(key):
  del key
  return jnp.array([[0] * 30 + [4] * 33, [1] * 20 + [-1] * 43])


def _shapes(B, T, S, N, K, H):
  return {"q": (B, T, N, H), "k": (B, S, K, H)}


CASES = (
  Case("last", _shapes(2, 33, 33, 4, 2, 8), _at(32, 7), function="attention_row"),
  Case("one_query", _shapes(2, 1, 65, 1, 1, 4), _at(0, 0), function="attention_row"),
  Case(
    "segments",
    _shapes(2, 63, 63, 3, 3, 4),
    _at(40, 62) | {"segment_ids": _segments, "scale": 0.7},
    function="attention_row",
  ),
)
