"""Controls of cache policies: as many keys, but not those that attention would choose.

Each is a policy of `attnjax.variants.decode.sparse_frontier` that takes the last keys,
or whose queries are noise when it chooses.
"""

import dataclasses

import jax
import jax.numpy as jnp

from attnjax.core.policies import Choice
from attnjax.variants.decode import sparse_frontier as frontier
from attnjax.variants.decode.sparse_frontier import pages, patterns


@dataclasses.dataclass(frozen=True)
class LastPages(frontier.Quest):
  """Quest without its bounds: the last pages."""

  def choose(self, q, past, own, shared, index):
    """Returns the last places."""
    del index
    count = own[0].shape[1]
    scores = jnp.broadcast_to(jnp.arange(count, dtype=jnp.float32), (len(q), 1, count))
    sizes = {"pages": self.budget // self.page, "page": self.page}
    chosen = pages.select_pages(scores, past.count, **sizes)
    return Choice(*chosen), own, shared


@dataclasses.dataclass(frozen=True)
class RandomPages(frontier.Quest):
  """Quest whose queries are noise, another one in each step."""

  def choose(self, q, past, own, shared, index):
    """Returns the choice for a random query."""
    key = jax.random.fold_in(jax.random.key(0), past.tokens.length)
    return super().choose(jax.random.normal(key, q.shape), past, own, shared, index)


@dataclasses.dataclass(frozen=True)
class LastKeys(frontier.AdaSnapKV):
  """Ada-SnapKV without attention's choice: the last keys of the prompt."""

  def _chosen(self, queries, keys, lengths):
    place, end = jnp.arange(keys.shape[1]), lengths[:, None]
    kept = (place < end) & (place >= end - self.capacity)
    return jnp.repeat(kept[:, None], keys.shape[2], axis=1)


@dataclasses.dataclass(frozen=True)
class RandomKeys(frontier.AdaSnapKV):
  """Ada-SnapKV whose window's queries are noise."""

  def _chosen(self, queries, keys, lengths):
    return super()._chosen(
      jax.random.normal(jax.random.key(0), queries.shape), keys, lengths
    )


@dataclasses.dataclass(frozen=True)
class LastSlashes(frontier.VerticalSlash):
  """Vertical-slash without attention's choice: the nearest keys, as many."""

  def mask(self, q, k, lengths):
    """Returns a window."""
    del k, lengths
    place = jnp.arange(q.shape[1])
    near = place[:, None] - place < self.verticals + self.slashes
    near = near & (place <= place[:, None])
    return patterns.listed(jnp.broadcast_to(near, (len(q), q.shape[2], *near.shape)))


@dataclasses.dataclass(frozen=True)
class RandomSlashes(frontier.VerticalSlash):
  """Vertical-slash whose queries are noise."""

  def mask(self, q, k, lengths):
    """Returns the choice for random queries."""
    return super().mask(jax.random.normal(jax.random.key(0), q.shape), k, lengths)
