"""The cache policy: full, choosing and sparse layers of one step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.core import budgets
from attnjax.core.policies import Choice, News, Past
from attnjax.variants.decode.delta import pages as paging
from attnjax.variants.decode.delta.placement import spread_layers


@dataclasses.dataclass(frozen=True)
class Policy:
  """DELTA as a cache policy; see `attnjax.contract.forms.policy`.

  Attributes:
    full_layers: F, in ascending order, 0 among them; () for `spread_layers`.
    pages: M, pages that sparse layers see, 64 of 16 tokens in the paper.
    page: tokens of a page.
    recent_pages: the last pages, which are among the M.
    heads: how heads are reduced, one of HEADS.
    tokens: how a page's tokens are reduced, one of TOKENS.
    reselect_every: tokens from one choice to the next.
    layers: of the model; 0 before `fitted`.
  """

  full_layers: tuple[int, ...] = ()
  pages: int = 64
  page: int = 16
  recent_pages: int = 8
  heads: str = "max"
  tokens: str = "sum"
  reselect_every: int = 1
  layers: int = 0

  def __post_init__(self):
    check_options(heads=(self.heads, paging.HEADS), tokens=(self.tokens, paging.TOKENS))
    F = self.full_layers
    if list(F) != sorted(set(F)) or (F and F[0] != 0):
      raise ValueError(
        f"full_layers = {F}: ascending, from 0, since a sparse layer needs a layer"
        " before it that chooses"
      )
    if not 1 <= self.recent_pages <= self.pages:
      raise ValueError(
        f"recent_pages = {self.recent_pages} of pages = {self.pages}: the current page"
        " is always among them"
      )
    if self.page < 1 or self.reselect_every < 1:
      raise ValueError(
        f"page = {self.page}, reselect_every = {self.reselect_every}: at least 1 each"
      )
    if self.layers and F and F[-1] >= self.layers:
      raise ValueError(f"full_layers = {F} of a model of {self.layers} layers")

  def fitted(self, layers: int) -> "Policy":
    """Returns the policy with its layers of full attention in a model."""
    found = self.full_layers or spread_layers(layers)
    return dataclasses.replace(self, full_layers=found, layers=layers)

  def of_fraction(self, fraction: float, length: int) -> "Policy":
    """Returns the policy with pages that hold a share of a row's keys.

    Pages become smaller where there would be fewer than four; the recent ones keep
    their share of them.
    """
    keys = budgets.keys(fraction, length)
    page = min(self.page, max(keys // 4, 1))
    pages = -(-length // page) if fraction == 1 else keys // page
    recent = max(pages * self.recent_pages // self.pages, 1)
    return dataclasses.replace(self, page=page, pages=pages, recent_pages=recent)

  @property
  def selection_layers(self) -> tuple[int, ...]:
    """Returns the full layers before a sparse one, which choose pages."""
    others = {*self.full_layers, self.layers}
    return tuple(f for f in self.full_layers if f + 1 not in others)

  def init(self, batch: int, length: int, heads: int, size: int, dtype: Any) -> Any:
    """Returns the last choice's scores, and the tokens since, if they are kept."""
    del heads, size, dtype
    if self.reselect_every == 1:
      return ()
    scores = jnp.zeros((batch, self._count(length)), jnp.float32)
    return scores, jnp.full((batch,), self.reselect_every, jnp.int32)

  def start(self, batch: int, length: int) -> Any:
    """Returns a list of no pages, (ids, real)."""
    shape = batch, min(self.pages, self._count(length))
    return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)

  def observe(self, own: Any, news: News) -> Any:
    """Returns the layer's arrays; a new document is due for a choice."""
    if not own:
      return own
    return own[0], jnp.where(news.fresh, self.reselect_every, own[1])

  def choose(
    self, q: Float[Array, "B N H"], past: Past, own: Any, shared: Any, index: Any
  ) -> tuple[Choice, Any, Any]:
    """Returns all places in a full layer, else those of the pages chosen below."""
    full, selects = (
      (jnp.asarray(index)[None] == jnp.asarray((*layers, -1))).any()
      for layers in (self.full_layers, self.selection_layers)
    )
    chosen, own = jax.lax.cond(
      selects,
      lambda: self._select(q, past, own),
      lambda: (shared, own),
    )
    ids, real = chosen
    places = paging.page_places(ids, self.page)
    real = jnp.repeat(real, self.page, axis=1) & (places < past.count[:, None])
    choice = Choice(places[:, None], real[:, None], full, page=self.page)
    return choice, own, chosen

  def reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns (keys that a query attends to in all layers, keys read to choose: 0).

    A choosing layer's scores are those of its own attention.
    """
    filled = self._count(places)
    some = places
    if filled > self.pages:
      some = self.pages * self.page - (filled * self.page - places)
    full = len(self.full_layers)
    return float(full * places + (layers - full) * some), 0.0

  def _count(self, places: int) -> int:
    return -(-places // self.page)

  def _select(self, q, past, own):
    """Returns the pages of a choosing layer, and its arrays."""
    given = {"page": self.page, "heads": self.heads, "tokens": self.tokens}
    sizes = {n: getattr(self, n) for n in ("pages", "page", "recent_pages")}
    if not own:
      scores = paging.page_scores(past.logits(q), **given)
      return paging.select_pages(scores, past.count, **sizes), own
    scores, since = own
    due = (since >= self.reselect_every) & past.real
    new = jax.lax.cond(
      due.any(),
      lambda: paging.page_scores(past.logits(q), **given).astype(jnp.float32),
      lambda: scores,
    )
    scores = jnp.where(due[:, None], new, scores)
    since = jnp.where(due, 0, since) + past.real
    return paging.select_pages(scores, past.count, **sizes), (scores, since)
