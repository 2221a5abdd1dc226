"""Quest: bounds of a page's scores by its keys' extremes, and the choice of pages."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def extremes(
  k: Float[Array, "B S K H"], lengths: Int[Array, "B"], page: int
) -> tuple[Float[Array, "B P K H"], Float[Array, "B P K H"]]:
  """Computes the least and the greatest of each page's keys, element by element.

  Args:
    k: keys by their places.
    lengths: tokens of each row; a page without one has inf and -inf.
    page: tokens of a page.
  """
  B, S, K, H = k.shape
  real = (jnp.arange(S) < lengths[:, None])[..., None, None]
  filled = (0, 0), (0, -S % page), (0, 0), (0, 0)
  low, high = (
    jnp.pad(jnp.where(real, k, x), filled, constant_values=x).reshape(B, -1, page, K, H)
    for x in (jnp.inf, -jnp.inf)
  )
  return low.min(axis=2), high.max(axis=2)


def bounds(
  q: Float[Array, "B N H"],
  low: Float[Array, "B P K H"],
  high: Float[Array, "B P K H"],
  *,
  share_pages: bool = True,
) -> Float[Array, "B G P"]:
  """Computes upper bounds of q . k over the keys of each page, float32, unscaled.

  sum_d max(q_d low_d, q_d high_d), G = N; with `share_pages` the sum over the query
  heads of each key head, G = K.
  """
  q, low, high = (jax.lax.stop_gradient(x) for x in (q, low, high))
  (B, N, H), K = q.shape, low.shape[2]
  own = q.astype(jnp.float32).reshape(B, K, N // K, H)
  some = low[..., :1] <= high[..., :1]
  low, high = (jnp.where(some, x, 0).astype(jnp.float32) for x in (low, high))
  parts = jnp.minimum(own, 0), jnp.maximum(own, 0)
  if share_pages:
    parts = [part.sum(axis=2, keepdims=True) for part in parts]
  found = (jnp.einsum("bkgh,bpkh->bkgp", x, y) for x, y in zip(parts, (low, high)))
  return sum(found, jnp.zeros((), jnp.float32)).reshape(B, -1, low.shape[1])


def select_pages(
  scores: Float[Array, "B G P"], lengths: Int[Array, "B"], *, pages: int, page: int
) -> tuple[Int[Array, "B G M"], Bool[Array, "B G M"]]:
  """Chooses the best `pages` pages before the current one, and it: (places, real).

  Args:
    scores: of the pages.
    lengths: tokens of each row, the new one included.
    pages: chosen at most, besides the current one.
    page: tokens of a page; M = (min(pages, P) + 1) page.
  """
  B, G, P = scores.shape
  current = ((lengths - 1) // page)[:, None, None]
  scores = jnp.where(jnp.arange(P) < current, scores, -jnp.inf)
  best, ids = jax.lax.top_k(jax.lax.stop_gradient(scores), min(pages, P))
  ids = jnp.concatenate([ids, jnp.broadcast_to(current, (B, G, 1))], axis=2)
  real = jnp.concatenate([best > -jnp.inf, jnp.ones((B, G, 1), bool)], axis=2)
  places = ids[..., None] * page + jnp.arange(page)
  places = places.reshape(B, G, -1).astype(jnp.int32)
  real = jnp.repeat(real, page, axis=2) & (places >= 0)
  return jnp.maximum(places, 0), real & (places < lengths[:, None, None])


def of_budget(budget: int, page: int) -> int:
  """Returns the number of pages of a budget of tokens.

  Raises:
    ValueError: if it is no whole number of them, or they have no tokens.
  """
  if page < 1 or budget < 0 or budget % page:
    raise ValueError(
      f"budget = {budget}, page = {page}: a budget is a whole number of pages, each of"
      " 1 token or more"
    )
  return budget // page
