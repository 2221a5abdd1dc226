"""Scores of pages, the choice among them, and attention to chosen pages."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case, check_known, check_options
from attnjax.variants.softmax import dot_product

IMPLEMENTATIONS = ("reference", "xla")
HEADS = ("max", "mean", "sum")
TOKENS = ("sum", "max")
_REDUCE = {"max": jnp.max, "mean": jnp.mean, "sum": jnp.sum}


def page_scores(
  logits: Float[Array, "B N S"],
  *,
  valid: Bool[Array, "B S"] | None = None,
  page: int = 16,
  heads: str = "max",
  tokens: str = "sum",
  impl: str = "auto",
) -> Float[Array, "B P"]:
  """Computes the scores of the P = ceil(S / page) pages from a new token's logits.

  arXiv:2510.09883, section 3.

  Args:
    logits: scaled scores of the cached tokens.
    valid: which of them count; all if None. A page without one has the score 0.
    page: tokens of a page.
    heads: how the heads' probabilities of a token are reduced, one of HEADS.
    tokens: how a page's tokens are reduced, one of TOKENS.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: for unknown names, and pages of no tokens.
  """
  check_options(
    heads=(heads, HEADS),
    tokens=(tokens, TOKENS),
    impl=(impl, ("auto", *IMPLEMENTATIONS)),
  )
  if page < 1:
    raise ValueError(f"page = {page}; a page has 1 token or more")
  options = {"valid": valid, "page": page, "heads": heads, "tokens": tokens}
  if impl == "reference":
    return reference_page_scores(logits, **options)
  B, _, S = logits.shape
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  seen = logits > -jnp.inf
  if valid is not None:
    seen &= valid[:, None]
  weights = jax.nn.softmax(logits, axis=-1, where=seen)
  weights = jnp.where(seen, weights, 0.0)
  mass = _REDUCE[heads](weights, axis=1)
  mass = jnp.pad(mass, ((0, 0), (0, -S % page)))
  return _REDUCE[tokens](mass.reshape(B, -1, page), axis=-1)


def reference_page_scores(
  logits, *, valid=None, page=16, heads="max", tokens="sum"
) -> Float[Array, "B P"]:
  """Computes the definition: exponentials, their sums, and one page after the other."""
  B, _, S = logits.shape
  valid = jnp.ones((B, S), bool) if valid is None else valid
  real = valid[:, None, :] & jnp.isfinite(logits)
  wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  wide = jnp.where(real, wide, 0)
  largest = jnp.max(jnp.where(real, wide, -1e30), axis=2, keepdims=True)
  exponential = jnp.where(real, jnp.exp(wide - jax.lax.stop_gradient(largest)), 0)
  total = jnp.sum(exponential, axis=2, keepdims=True)
  p = exponential / jnp.where(total > 0, total, 1)
  m = {"max": p.max(1), "sum": p.sum(1), "mean": p.sum(1) / p.shape[1]}[heads]
  pages = [m[:, at : at + page] for at in range(0, S, page)]
  return jnp.stack([x.max(1) if tokens == "max" else x.sum(1) for x in pages], axis=1)


def select_pages(
  scores: Float[Array, "B P"],
  lengths: Int[Array, "B"],
  *,
  pages: int = 64,
  page: int = 16,
  recent_pages: int = 8,
) -> tuple[Int[Array, "B M"], Bool[Array, "B M"]]:
  """Chooses M = min(pages, P) pages of each row: (ids in ascending order, real).

  Args:
    scores: of the pages.
    lengths: tokens of each row; pages without a token are not chosen.
    pages: at most so many.
    page: tokens of a page.
    recent_pages: the last ones are chosen first.

  Returns:
    Where a row has fewer than M pages, the last ids are P - 1 and not real.
  """
  P = scores.shape[1]
  number = jnp.arange(P, dtype=jnp.int32)
  filled = -(-lengths[:, None] // page)
  scores = jax.lax.stop_gradient(scores) - 1e-7 * number
  scores = jnp.where(number >= filled - recent_pages, jnp.inf, scores)
  scores = jnp.where(number < filled, scores, -jnp.inf)
  best, ids = jax.lax.top_k(scores, min(pages, P))
  ids = jnp.sort(jnp.where(best > -jnp.inf, ids, P), axis=-1)
  return jnp.minimum(ids, P - 1).astype(jnp.int32), ids < P


def attend(
  q: Float[Array, "B N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  pages: Int[Array, "B M"],
  lengths: Int[Array, "B"],
  real: Bool[Array, "B M"] | None = None,
  page: int = 16,
  impl: str = "auto",
) -> Float[Array, "B N V"]:
  """Computes attention of one new token a row to the tokens of its pages.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    pages: numbers of pages, each once.
    lengths: tokens of each row; later ones are not seen.
    real: which of `pages` count; all if None.
    page: tokens of a page.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return reference(q, k, v, pages=pages, lengths=lengths, real=real, page=page)
  places = page_places(pages, page)
  seen = places < lengths[:, None]
  if real is not None:
    seen &= jnp.repeat(real, page, axis=1)
  rows, places = jnp.arange(len(k))[:, None], jnp.minimum(places, k.shape[1] - 1)
  k, v = k[rows, places], v[rows, places]
  mask = seen[:, None, None]
  return dot_product.attend(q[:, None], k, v, mask=mask, impl="xla")[:, 0]


def page_places(pages: Int[Array, "B M"], page: int) -> Int[Array, "B MP"]:
  """Returns the places of the tokens of pages, one page after the other."""
  places = pages[:, :, None] * page + jnp.arange(page, dtype=pages.dtype)
  return places.reshape(len(pages), -1)


def reference(q, k, v, *, pages, lengths, real=None, page=16):
  """Computes the definition: all scores, and 0 for the tokens of no chosen page."""
  S, N, K = k.shape[1], q.shape[1], k.shape[2]
  real = jnp.ones(pages.shape, bool) if real is None else real
  own = (jnp.arange(S) // page)[None, :, None] == pages[:, None]
  seen = (own & real[:, None]).any(2) & (jnp.arange(S) < lengths[:, None])
  wide = jnp.promote_types(q.dtype, jnp.float32)
  k, v = (jnp.repeat(x.astype(wide), N // K, axis=2) for x in (k, v))
  k, v = (jnp.where(seen[:, :, None, None], x, 0) for x in (k, v))
  score = jnp.einsum("bnh,bsnh->bns", q.astype(wide), k) / math.sqrt(q.shape[-1])
  score = jnp.where(seen[:, None], score, -1e30)
  weight = jnp.exp(score - score.max(-1, keepdims=True)) * seen[:, None]
  total = weight.sum(-1, keepdims=True)
  out = jnp.einsum("bns,bsnv->bnv", weight / jnp.where(total, total, 1), v)
  return out.astype(q.dtype)


def _shapes(B, S, N, K, H, V):
  return {"q": (B, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}


def _numbers(*rows):
  return lambda key: jnp.array(rows, jnp.int32)


def _case(name, shapes, pages, lengths, page, **more):
  options = {"pages": _numbers(*pages), "lengths": _numbers(*lengths), "page": page}
  return Case(name, shapes, options | more)


def _scores(name, shape, **options):
  return Case(name, {"logits": shape}, options, function="page_scores")


CASES = (
  _case("pages", _shapes(2, 63, 4, 2, 8, 8), [[0, 3, 7], [1, 2, 5]], [63, 41], 8),
  _case("one_token", _shapes(1, 1, 1, 1, 4, 4), [[0]], [1], 16),
  _case("one_head", _shapes(2, 65, 1, 1, 4, 6), [[4, 8], [0, 1]], [65, 7], 8),
  _case(
    "some_real",
    _shapes(2, 7, 3, 1, 8, 5),
    [[0, 3], [0, 1]],
    [7, 0],
    2,
    real=lambda key: jnp.array([[True, False], [True, True]]),
  ),
  _scores("scores", (2, 4, 63), page=8),
  _scores("scores_one_token", (1, 1, 1)),
  _scores("scores_mean_max", (1, 3, 65), page=16, heads="mean", tokens="max"),
  _scores("scores_sum", (2, 2, 7), page=7, heads="sum"),
  _scores(
    "scores_valid",
    (2, 3, 20),
    page=6,
    valid=lambda key: jnp.arange(20) < jnp.array([[11], [0]]),
  ),
)
