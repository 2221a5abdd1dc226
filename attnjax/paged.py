"""Decoding with paged caches: attention of each row's new token to listed pages.

  out, lse, _ = attnjax.paged_decode(q, k_pages, v_pages, table, lengths)

A pool holds pages of all rows in any order; a table lists each row's pages, for all
heads or for each. That is how servers keep caches (Woosuk Kwon et al. PagedAttention.
2023. arXiv:2309.06180), and how policies that choose pages read them. With
`page_scores` the pages that a later layer or step shall read can be chosen from the
weights of this one (arXiv:2510.09883, section 3).

Cost: the listed pages of keys and values are read once.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax import backends
from attnjax.contract import check_known
from attnjax.core.softmax.paged import Paged


def paged_decode(
  query: Float[Array | np.ndarray, "..."],
  key: Float[Array | np.ndarray, "..."],
  value: Float[Array | np.ndarray, "..."],
  table: Int[Array | np.ndarray, "..."],
  lengths: Int[Array | np.ndarray, "..."],
  *,
  scale: float | None = None,
  page_scores: bool = False,
  impl: str = "auto",
) -> Paged:
  """Computes attention of one new token a row to the tokens of its pages.

  Args:
    query: (B, N, H), of the new tokens.
    key: (P, p, K, H), a pool of pages of p tokens; K divides N.
    value: (P, p, K, V).
    table: (B, G, M), numbers of pages, in the order of their tokens; one list for all
      heads, or one for each key head or query head (G is 1, K or N). What lies beyond
      the length is not read.
    lengths: (B, G), tokens of each list, at most M p: all pages but the last one are
      full.
    scale: of q . k; H^-0.5 if None.
    page_scores: whether scores of the pages are computed: the sum over a page's tokens
      of the greatest weight that a head gives the token.
    impl: one of `attnjax.attention.IMPLEMENTATIONS`, or "auto".

  Returns:
    (out (B, N, V), lse (B, N), scores (B, G, M) or None): out is 0 and lse -inf where a
    length is 0.

  Raises:
    ValueError: if shapes do not fit, or a name is not allowed.
    NotImplementedError: if the named implementation cannot do the problem.
  """
  check_known("impl", impl, ("auto", *backends.IMPLEMENTATIONS))
  arrays = map(jnp.asarray, (query, key, value, table, lengths))
  query, key, value, table, lengths = arrays
  starts, counts = _runs(key, value, table, lengths)
  options = {"page": key.shape[1], "scores": page_scores, "impl": impl}
  scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
  key, value = (x.reshape(-1, *x.shape[2:]) for x in (key, value))
  return backends.paged(query, key, value, starts, counts, scale=scale, **options)


def _runs(key, value, table, lengths):
  """Returns the first tokens and the numbers of tokens of the tables' pages."""
  if key.shape[:3] != value.shape[:3] or key.ndim != 4:
    raise ValueError(
      f"keys {key.shape} and values {value.shape}: both are (P, p, K, size)"
    )
  if lengths.shape != table.shape[:2]:
    raise ValueError(
      f"lengths {lengths.shape} of lists {table.shape}: there is one for each list"
    )
  page = key.shape[1]
  before = jnp.arange(table.shape[2], dtype=jnp.int32) * page
  counts = jnp.clip(lengths.astype(jnp.int32)[..., None] - before, 0, page)
  return jnp.where(counts > 0, table, 0).astype(jnp.int32) * page, counts
