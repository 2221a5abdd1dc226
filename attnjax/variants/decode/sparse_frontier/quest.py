"""Quest as a cache policy."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import budgets
from attnjax.core.policies import Choice, News, Past
from attnjax.variants.decode.sparse_frontier import pages


@dataclasses.dataclass(frozen=True)
class Quest:
  """Quest as a cache policy; see `attnjax.contract.forms.policy`.

  Attributes:
    budget: tokens of the chosen pages before the current one.
    page: tokens of a page.
    share_pages: whether the query heads of a key head share their pages.
  """

  budget: int = 1024
  page: int = 16
  share_pages: bool = True

  def __post_init__(self):
    pages.of_budget(self.budget, self.page)

  def fitted(self, layers: int) -> "Quest":
    """Returns the policy: it fits every model."""
    del layers
    return self

  def of_fraction(self, fraction: float, length: int) -> "Quest":
    """Returns the policy with pages that hold a share of a row's keys.

    The current page is one of them. Pages become smaller where there would be fewer
    than four.
    """
    keys = budgets.keys(fraction, length)
    page = min(self.page, max(keys // 4, 1))
    count = -(-length // page) if fraction == 1 else keys // page - 1
    return dataclasses.replace(self, page=page, budget=count * page)

  def init(self, batch: int, length: int, heads: int, size: int, dtype: Any) -> Any:
    """Returns the least and the greatest keys of each page, (B, P, K, H)."""
    shape = batch, -(-length // self.page), heads, size
    return jnp.full(shape, jnp.inf, dtype), jnp.full(shape, -jnp.inf, dtype)

  def start(self, batch: int, length: int) -> Any:
    """Returns nothing: layers choose alone."""
    del batch, length
    return ()

  def observe(self, own: Any, news: News) -> Any:
    """Returns the extremes with the keys of new tokens."""
    low, high = own
    begins = news.fresh[:, None, None, None]
    low, high = jnp.where(begins, jnp.inf, low), jnp.where(begins, -jnp.inf, high)
    rows, k = jnp.arange(len(low))[:, None], news.k.astype(low.dtype)
    where = jnp.where(news.live, news.places // self.page, low.shape[1])
    low = low.at[rows, where].min(k, mode="drop")
    return low, high.at[rows, where].max(k, mode="drop")

  def choose(
    self, q: Float[Array, "B N H"], past: Past, own: Any, shared: Any, index: Any
  ) -> tuple[Choice, Any, Any]:
    """Returns the places of the pages with the greatest bounds, and the current one."""
    del index
    scores = pages.bounds(q, *own, share_pages=self.share_pages)
    sizes = {"pages": self.budget // self.page, "page": self.page}
    chosen = pages.select_pages(scores, past.count, **sizes)
    return Choice(*chosen, page=self.page), own, shared

  def reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns keys that a query reads: attended to, and the extremes of pages."""
    before = (places - 1) // self.page
    some = self.budget // self.page
    if before <= some:
      return float(layers * places), 0.0
    left = (before - some) * self.page
    return float(layers * (places - left)), float(2 * layers * before)
