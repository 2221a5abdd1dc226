"""The part of cache policies that choose in a prompt alone."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.policies import Choice, News, Past


class DenseAfterPrompt:
  """The part of a cache policy that later queries ask: they see all keys."""

  def fitted(self, layers: int) -> Any:
    """Returns the policy: it fits every model."""
    del layers
    return self

  def init(self, batch: int, length: int, heads: int, size: int, dtype: Any) -> Any:
    """Returns no arrays."""
    del batch, length, heads, size, dtype
    return ()

  def start(self, batch: int, length: int) -> Any:
    """Returns nothing: layers choose alone."""
    del batch, length
    return ()

  def observe(self, own: Any, news: News) -> Any:
    """Returns no arrays."""
    del news
    return own

  def choose(
    self, q: Float[Array, "B N H"], past: Past, own: Any, shared: Any, index: Any
  ) -> tuple[Choice, Any, Any]:
    """Returns a dense choice."""
    del q, index
    newest = jnp.maximum(past.count - 1, 0)[:, None, None]
    return Choice(newest, past.real[:, None, None], True), own, shared

  def reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns (keys that a query reads after the prompt, all of them; 0)."""
    return float(layers * places), 0.0
