"""X-Pool between two towers: the scores of texts and videos."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnjax.variants.cross.xpool import pooling
from attnjax.variants.cross.xpool.vectors import Videos, encode
from attnjax.variants.cross.xpool.weights import MATRICES, Weights


class Scorer(nnx.Module):
  """Scores texts (Q, D) and the frames of videos (I, F, D) by `similarity`.

  As in the authors' code linear maps begin as the identity with biases of 0, so that
  frames are first pooled by the products of normalised vectors.
  """

  def __init__(
    self,
    dims: Mapping[str, int],
    *,
    heads: int = 1,  # N
    drop_rate: float = 0.3,  # of the residual branch, with a key
    impl: str = "auto",  # as in `similarity`
    rngs: nnx.Rngs,
  ):
    del rngs  # nothing is random
    D = dims["queries"]
    if dims["items"] != D:
      raise ValueError(f"dims = {dict(dims)}: texts and frames share a layer norm")
    if heads < 1 or D % heads:
      raise ValueError(f"heads = {heads}; it must divide D = {D}")
    if not 0 <= drop_rate < 1:
      raise ValueError(f"drop_rate = {drop_rate}; it must be from 0 to below 1")
    self.heads, self.drop_rate, self.impl = heads, drop_rate, impl
    for name in MATRICES:
      setattr(self, name, nnx.Param(jnp.eye(D)))
      setattr(self, f"{name}_bias", nnx.Param(jnp.zeros(D)))
    self.norm_scale = nnx.Param(jnp.ones((3, D)))
    self.norm_bias = nnx.Param(jnp.zeros((3, D)))

  def __call__(
    self,
    queries: Float[Array, "Q D"],
    items: Float[Array, "I F D"],
    *,
    item_valid: Bool[Array, "I F"] | None = None,
    tile: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "Q I"]:
    """Returns the cosine of each text and its own vector of each video.

    Args:
      queries: texts, not normalised.
      items: frames, likewise.
      item_valid: True at the real frames.
      tile: texts, and videos, that are compared at a time; 0: all.
      key: turns dropout on.
    """
    given: dict[str, Any] = {
      "valid": item_valid,
      "tile": tile,
      "key": key,
      **self._options,
    }
    return pooling.similarity(queries, items, self.weights, impl=self.impl, **given)

  def encode(
    self, items: Float[Array, "I F D"], item_valid: Bool[Array, "I F"] | None = None
  ) -> Videos:
    """Returns what of the videos is kept to be searched many times."""
    return encode(items, self.weights, heads=self.heads, valid=item_valid)

  def search(
    self, queries: Float[Array, "Q D"], videos: Videos, *, tile: int = 0
  ) -> Float[Array, "Q I"]:
    """Returns the scores of texts and encoded videos."""
    own = self.weights
    return pooling.search(queries, videos, own, heads=self.heads, tile=tile)

  def weigh(
    self,
    queries: Float[Array, "Q D"],
    items: Float[Array, "I F D"],
    *,
    item_valid: Bool[Array, "I F"] | None = None,
  ) -> Float[Array, "I N Q F"]:
    """Returns the share that each frame has for each text."""
    given: dict[str, Any] = {
      "heads": self.heads,
      "valid": item_valid,
      "impl": self.impl,
    }
    return pooling.weigh(queries, items, self.weights, **given)

  @property
  def weights(self) -> Weights:
    """Returns the parameters of the functions."""
    return Weights(**{n: getattr(self, n)[...] for n in Weights.__annotations__})

  @property
  def _options(self) -> dict[str, Any]:
    return {"heads": self.heads, "drop_rate": self.drop_rate}
