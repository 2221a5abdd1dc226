"""Composed queries against items: the last token and the image, in a common space."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnjax.core import streams
from attnjax.core.tiles import tiled
from attnjax.core.units import unit
from attnjax.nn import linear
from attnjax.variants.cross.composed_retrieval.query import pool_last


class Scorer(nnx.Module):
  """Scores hidden states of queries (Q, T, D) and vectors of images (I, W) by cosines.

  The last real token of a query and the image have each a linear map without bias.
  """

  def __init__(
    self,
    dims: Mapping[str, int],
    *,
    width: int = 0,  # E, of the common space; 0: that of the items
    project_items: bool = True,  # if not, an item is its own vector in the common space
    impl: str = "auto",  # as in `pool_last`
    rngs: nnx.Rngs,
  ):
    E = width or dims["items"]
    if E < 1 or (not project_items and dims["items"] != E):
      raise ValueError(
        f"width = {width} beside items of {dims['items']}: it must be at least 1, and"
        " theirs where they are not projected"
      )
    self.impl = impl
    self.queries = linear.linear(dims["queries"], E, bias=False, rngs=rngs)
    self.items = (
      linear.linear(dims["items"], E, bias=False, rngs=rngs) if project_items else None
    )

  def __call__(
    self,
    queries: Float[Array, "Q T D"],
    items: Float[Array, "I W"],
    *,
    query_valid: Bool[Array, "Q T"] | None = None,
    tile: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "Q I"]:
    """Returns the cosine of each query and each item, float32.

    Args:
      queries: hidden states of a causal language model.
      items: vectors of images.
      query_valid: True at the real tokens; all are real if None.
      tile: queries, and items, that are compared at a time; 0: all.
      key: has no effect, since nothing is dropped.
    """
    del key
    sides = self.embed_queries(queries, query_valid), self.embed_items(items)
    return tiled(lambda q, t: jnp.einsum("qe,ie->qi", q, t), *sides, tile)

  def embed_queries(
    self, hidden: Float[Array, "Q T D"], valid: Bool[Array, "Q T"] | None = None
  ) -> Float[Array, "Q E"]:
    """Returns the vectors of queries, of length 1; 0 without tokens."""
    last = pool_last(streams.cleared(hidden, valid), valid, impl=self.impl)
    return unit(self.queries(last)).astype(jnp.float32)

  def embed_items(self, items: Float[Array, "I W"]) -> Float[Array, "I E"]:
    """Returns the vectors of items, of length 1: an index for retrieval."""
    own = items if self.items is None else self.items(items)
    return unit(own).astype(jnp.float32)
