"""The layer: a projection for the search beside those of attention."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import positions as rotary
from attnjax.core.cache import KeyValueCache
from attnjax.nn import projections, unseen
from attnjax.variants.sparse.superlinear import search
from attnjax.variants.sparse.superlinear.attention import IMPLEMENTATIONS, attend
from attnjax.variants.sparse.superlinear.search import Geometry

FORMS = ("causal",)
# Raw scores saturate the gate: its queries begin a tenth as long as the others.
_SEARCH_INIT = nnx.initializers.normal(0.002)


class Layer(nnx.Module):
  """Projections, rotary positions and `attend`; x (B, T, D).

  Anchors are only as good as what their keys tell of the tokens around them: the model
  needs a recurrence or a convolution below.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    kv_heads: int = 0,  # 0: as many as heads
    head_dim: int = 0,  # 0: dim / heads
    top: int = 3,
    window_index: int = 3,
    backward: float = 2.0,
    forward: float = 0.0,
    search_power: float = 0.5,
    span_power: float = 0.5,
    rope_theta: float = 10000.0,  # 0: no rotation
    bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    self.search = nnx.LinearGeneral(
      dim, (heads, size), use_bias=bias, kernel_init=_SEARCH_INIT, rngs=rngs
    )
    self.project = projections.QueryKeyValue(
      dim, heads, kv_heads, size, rope_theta=rope_theta, bias=bias, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=bias, rngs=rngs)
    self.geometry = Geometry(
      top, window_index, backward, forward, search_power, span_power
    )
    self.kv_heads, self.size, self.impl = kv_heads, size, impl

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B T D"]:
    """(B, T, D); documents are runs of equal ids."""
    del index  # the same at every depth
    if 0 in x.shape:
      return unseen.nothing(self, x)
    x, ids = unseen.blank(x, segment_ids, padding)
    positions = jnp.arange(x.shape[1]) if positions is None else positions
    return self._finish(x, *self._heads(x, positions), segment_ids=ids)

  def spans(self, x: Float[Array, "B T D"]) -> search.Spans:
    """The spans of each query, for one document without padding."""
    (q1, _, k, _), T = self._heads(x, jnp.arange(x.shape[1])), x.shape[1]
    where = search.rows(jnp.zeros(x.shape[:2], jnp.int32), T, 0)
    return search.span_search(q1, k, where, self.geometry, 0)[0]

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """An empty cache with room for `length` tokens."""
    shape = (self.kv_heads, self.size)
    return KeyValueCache.empty(batch, length, shape, shape, dtype)

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: KeyValueCache,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """The next T tokens, T >= 1, after those in the cache."""
    del index
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    x, ids = unseen.blank(x, segment_ids, padding)
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    start = cache.length
    q1, q2, k, v = self._heads(x, start + jnp.arange(x.shape[1]))
    cache = cache.append(k, v, ids)
    seen = {"segment_ids": cache.segment_ids, "offset": start}
    return self._finish(x, q1, q2, cache.k, cache.v, **seen), cache

  def _heads(self, x, positions):
    q1, (q2, k, v) = self.search(x), self.project(x, positions)
    # The search reads the rotated keys, so its queries are rotated as well.
    if self.project.rope_theta:
      q1 = rotary.rotate(q1, positions, theta=self.project.rope_theta)
    return q1, q2, k, v

  def _finish(self, x, q1, q2, k, v, **seen):
    options = self.geometry._asdict() | seen
    return self.out(attend(q1, q2, k, v, **options, impl=self.impl).astype(x.dtype))
