"""Attention of one new token by Quest, and by what SnapKV and Ada-SnapKV keep."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax import attention
from attnjax.contract import check_known
from attnjax.ops import chosen_keys
from attnjax.variants.decode.sparse_frontier import compression, definition, pages

IMPLEMENTATIONS = ("reference", "xla")


def attend_pages(
  q: Float[Array, "B N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  lengths: Int[Array, "B"],
  budget: int = 1024,
  page: int = 16,
  share_pages: bool = True,
  impl: str = "auto",
) -> Float[Array, "B N V"]:
  """Computes Quest's attention of one new token a row.

  Args:
    q: queries.
    k: keys, the new one's included; K divides N.
    v: values.
    lengths: tokens of each row; later ones are not seen.
    budget: tokens of the chosen pages before the current one.
    page: tokens of a page.
    share_pages: whether the query heads of a key head share their pages.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest of `attnjax.attention`.

  Raises:
    ValueError: if `impl` is unknown, or a budget of no whole pages.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  count = pages.of_budget(budget, page)
  if impl == "reference":
    given = {"budget": budget, "page": page, "share_pages": share_pages}
    return definition.reference_attend_pages(q, k, v, lengths=lengths, **given)
  low, high = pages.extremes(k, lengths, page)
  scores = pages.bounds(q, low, high, share_pages=share_pages)
  chosen = pages.select_pages(scores, lengths, pages=count, page=page)
  return chosen_keys.attend(q, k, v, *chosen, impl=impl)


def attend_kept(
  q: Float[Array, "B N H"],
  window: Float[Array, "B W N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  lengths: Int[Array, "B"],
  capacity: int = 1024,
  pool: int = 21,
  local: int = 128,
  first: int = 4,
  adaptive: bool = False,
  floor: float = 0.2,
  impl: str = "auto",
) -> Float[Array, "B N V"]:
  """Computes the attention of the token after a prompt, with the prompt compressed.

  Args:
    q: the new token's queries.
    window: the prompt's last W queries, which choose what is kept; no gradient.
    k: keys of the prompt, and after them the new one's; K divides N.
    v: values.
    lengths: tokens of each row's prompt; the new token's place.
    capacity: keys that a key head keeps, in the mean of them if `adaptive`.
    pool: keys over which importance is averaged, odd.
    local: last keys of the prompt, always kept.
    first: first keys, always kept.
    adaptive: whether it is Ada-SnapKV, SnapKV if not.
    floor: share of the capacity that each key head keeps at least, if `adaptive`.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest of `attnjax.attention`.

  Raises:
    ValueError: if `impl` is unknown, or sizes do not fit.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  compression.check(capacity, window.shape[1], pool, local, first)
  given: dict[str, Any] = {"capacity": capacity, "local": local, "first": first}
  if impl == "reference":
    given |= {"pool": pool, "adaptive": adaptive, "floor": floor}
    return definition.reference_attend_kept(q, window, k, v, lengths=lengths, **given)
  mass = compression.importance(window, k, lengths, pool=pool, adaptive=adaptive)
  if adaptive:
    kept = compression.keep_adaptive(mass, lengths, **given, floor=floor)
  else:
    kept = compression.keep(mass, lengths, **given)
  place = jnp.arange(k.shape[1])
  seen = kept | (place == lengths[:, None])[:, None]
  seen = jnp.repeat(seen, q.shape[1] // k.shape[2], axis=1)[:, :, None]
  found = attention.dot_product_attention(q[:, None], k, v, mask=seen, impl=impl)
  return found[:, 0]
