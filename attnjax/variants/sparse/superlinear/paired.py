"""Span attention: pairs of a query and a span, sorted by key.

Each pair acts as a query, in a list that all query heads of a key head share. In the
order of the spans' first keys a block of pairs sees few blocks of keys, which
`masks.schedule` lists; the softmax engine does the rest. For T tokens this computes O(T
top (b + c) T^r) scores and the rest of partly visible blocks. The lists have an entry
for each pair of a block of queries and a block of keys, in thousands: O(T^2 top N / K).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.core import masks, select
from attnjax.core.scores import Scores
from attnjax.variants.sparse.superlinear import search
from attnjax.variants.sparse.superlinear.search import Spans


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  found: Spans,
  *,
  real: Bool[Array, "B S"] | None,
  impl: str,
) -> tuple[Float[Array, "B T N top V"], Float[Array, "B T N top"]]:
  """Computes (out, lse) of every span by itself; 0 and -inf where there is none.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    found: the spans.
    real: False at padding, which is not seen; None if there is no padding.
    impl: as in `attnjax.attention`.
  """
  (B, T, N, H), (S, K), top = q.shape, k.shape[1:3], found.start.shape[3]
  order, mask = pairs(found, K, S)
  back = jnp.argsort(order, axis=-1)
  queries = search.by_key_head(q, K).reshape(B, K, -1, H)
  query = select.rows(queries, order // top).reshape(B * K, -1, 1, H)
  key, value = (x.swapaxes(1, 2).reshape(B * K, S, 1, -1) for x in (k, v))
  if real is not None:
    own = jnp.repeat(jnp.where(real, 0, -1), K, axis=0)
    mask = mask & masks.Segments(jnp.zeros(query.shape[:2], jnp.int32), own)
  out, lse = attention.attend(query, key, value, Scores(mask), scale=H**-0.5, impl=impl)

  def join(x):
    x = select.rows(x.reshape(B, K, *x.shape[1:2], -1), back)
    x = x.reshape(B, K, N // K, T, top, -1)
    return jnp.moveaxis(x, 3, 1).reshape(B, T, N, top, -1)

  return join(out), join(lse)[..., 0]


def pairs(found: Spans, K: int, S: int):
  """Returns the pairs' order (B, K, N / K T top), and their mask in that order."""
  start, end = (search.by_key_head(x, K) for x in (found.start, found.end))
  B = start.shape[0]
  start, end = (x.reshape(B, K, -1) for x in (start, end))
  some = (start >= 0) & (end >= start)
  # Pairs without a span come last and see nothing.
  low, high = jnp.where(some, start, S), jnp.where(some, end + 1, S)
  order = jnp.argsort(low, axis=-1)
  low, high = (jnp.take_along_axis(x, order, axis=-1) for x in (low, high))
  return order, masks.Intervals(*(x.reshape(B * K, -1) for x in (low, high)))
