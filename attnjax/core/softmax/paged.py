"""Attention of one new token a row to pages of keys, which lie anywhere in memory.

Woosuk Kwon et al. Efficient Memory Management for Large Language Model Serving with
PagedAttention. 2023. arXiv:2309.06180, section 4.1. For query head n, with g = n G / N
the list of pages that it reads, and t over the tokens of that list:

  score[n, t] = scale q[n] . k[t, n K / N]
  out[n]      = sum_t softmax_t(score[n])[t] v[t, n K / N]
  lse[n]      = log sum_t exp score[n, t]
  scores[g, m] = sum over the tokens t of page m of max_n exp(score[n, t] - lse[n]),
                 n over the heads that read list g

Page m of a list is the `counts[m]` tokens from token `starts[m]` on; a page of count 0
is no page. `reference` is the definition over all tokens, `gathered` copies the pages
of each list into a row.

Shapes: q (B, N, H), k (Z, K, H), v (Z, K, V), starts and counts (B, G, M) int32; G is
1, K or N, K divides N.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype


class Paged(NamedTuple):
  """Results of attention to pages.

  Attributes:
    out: 0 for a head that reads no token.
    lse: -inf for a head that reads no token.
    scores: of the pages, 0 for a page of no tokens; None if not asked for.
  """

  out: Float[Array, "B N V"]
  lse: Float[Array, "B N"]
  scores: Any = None


def check(q: Array, k: Array, v: Array, starts: Array, counts: Array) -> None:
  """Raises ValueError, naming sizes and the rule, for shapes that do not fit."""
  (B, N, H), (Z, K, width) = q.shape, k.shape
  if width != H:
    raise ValueError(f"keys have {width} elements, queries {H}: they must be equal")
  if v.shape[:2] != (Z, K):
    raise ValueError(f"values {v.shape[:2]} of keys {(Z, K)}: they must be equal")
  if N % K:
    raise ValueError(f"{K} key heads must divide {N} query heads")
  if starts.shape != counts.shape or len(starts) != B:
    raise ValueError(
      f"lists of pages {starts.shape} with counts {counts.shape} for {B} rows: they"
      " must have equal shapes, and the queries' rows"
    )
  G = starts.shape[1]
  if G not in (1, K, N):
    raise ValueError(f"{G} lists of pages a row; there is 1, or {K} or {N} for heads")


def reference(
  q, k, v, starts, counts, *, page: int, scale: float, scores: bool = False
) -> Paged:
  """Computes the definition: how often each list reads each token, and all scores."""
  Z, (B, N, _), G = k.shape[0], q.shape, starts.shape[1]
  wide = accumulator_dtype(q)
  token = jnp.arange(Z)[None, None, None]
  first, last = starts[..., None], (starts + jnp.minimum(counts, page))[..., None]
  inside = (token >= first) & (token < last)  # (B, G, M, Z)
  often = jnp.repeat(inside.sum(axis=2), N // G, axis=1)
  seen = often > 0
  key, value = (jnp.repeat(x.astype(wide), N // k.shape[1], axis=1) for x in (k, v))
  used = seen.swapaxes(1, 2)[..., None]  # (B, Z, N, 1)
  key, value = (jnp.where(used, x[None], 0) for x in (key, value))
  raw = jnp.einsum("bnh,bznh->bnz", q.astype(wide), key, precision="highest") * scale
  top = jax.lax.stop_gradient(jnp.where(seen, raw, -jnp.inf).max(axis=2))
  top = jnp.where(top == -jnp.inf, 0, top)
  power = jnp.where(seen, jnp.exp(jnp.where(seen, raw - top[..., None], 0)), 0)
  total = (often * power).sum(axis=2)
  some = jnp.where(total > 0, total, 1)
  out = jnp.einsum("bnz,bznv->bnv", often * power, value, precision="highest")
  lse = jnp.where(total > 0, jnp.log(some) + top, -jnp.inf)
  out = (out / some[..., None]).astype(v.dtype)
  if not scores:
    return Paged(out, lse)
  most = (power / some[..., None]).reshape(B, G, N // G, Z).max(axis=2)
  return Paged(out, lse, jnp.where(inside, most[:, :, None], 0).sum(axis=3))


def gathered(
  q, k, v, starts, counts, *, page: int, scale: float, scores: bool = False
) -> Paged:
  """Computes attention to copies of the pages, one row of tokens for each list."""
  (B, N, H), K, (_, G, M) = q.shape, k.shape[1], starts.shape
  wide, place = accumulator_dtype(q), jnp.arange(page, dtype=starts.dtype)
  seen = (place < counts[..., None]).reshape(B, G, M * page)
  tokens = (starts[..., None] + place).reshape(B, G, M * page)
  tokens = jnp.clip(tokens, 0, k.shape[0] - 1)
  lists = max(G, K)
  if G == 1:
    key, value = (x[tokens[:, 0]].swapaxes(1, 2) for x in (k, v))
  else:
    head = (jnp.arange(G) * K // G)[:, None]
    key, value = (x[tokens, head] for x in (k, v))  # (B, G, S, H)
  # Queries that share keys are rows of one product: (B, lists, N / lists, ...).
  used = jnp.broadcast_to(seen, (B, lists, M * page))
  key, value = (jnp.where(used[..., None], x, 0).astype(wide) for x in (key, value))
  rows = q.astype(wide).reshape(B, lists, -1, H) * scale
  raw = jnp.einsum("blgh,blsh->blgs", rows, key)
  raw = jnp.where(used[:, :, None], raw, -jnp.inf)
  top = jax.lax.stop_gradient(raw.max(axis=3, keepdims=True, initial=-jnp.inf))
  top = jnp.where(top == -jnp.inf, 0, top)
  power = jnp.exp(raw - top)
  total = power.sum(axis=3, keepdims=True)
  some = jnp.where(total > 0, total, 1)
  out = jnp.einsum("blgs,blsv->blgv", power, value) / some
  lse = jnp.where(total > 0, jnp.log(some) + top, -jnp.inf).reshape(B, N)
  out = out.reshape(B, N, -1).astype(v.dtype)
  if not scores:
    return Paged(out, lse)
  finite = jnp.where(lse == -jnp.inf, 0, lse).reshape(B, lists, -1, 1)
  most = jnp.exp(raw - finite).max(axis=2)
  return Paged(out, lse, page_scores(most.reshape(B, lists, M, page), G))


def page_scores(
  most: Float[Array, "B L M p"], lists: int
) -> Float[Array, "B {lists} M"]:
  """Computes the scores of pages from the greatest weights of their tokens.

  Args:
    most: weights, each the greatest of the heads of one of L groups; 0 for no token.
    lists: of pages, each read by as many groups, one after the other.
  """
  B, _, M, page = most.shape
  return most.reshape(B, lists, -1, M, page).max(axis=2).sum(axis=3)
