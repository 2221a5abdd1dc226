"""The layer: the projection for the search beside the projections of attention."""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import positions as rotary
from attnjax.core.cache import KeyValueCache
from attnjax.nn import projections
from attnjax.ops import self_attention
from attnjax.variants.sparse.superlinear import search
from attnjax.variants.sparse.superlinear.attention import IMPLEMENTATIONS, attend
from attnjax.variants.sparse.superlinear.search import Geometry

FORMS = ("causal",)
# Raw scores saturate the gate: the search's queries start a tenth as large.
_SEARCH_INIT = nnx.initializers.normal(0.002)


class Layer(nnx.Module):
  """Projections, rotary positions and `attend`; x (B, T, D).

  An anchor is only found if its key tells of the tokens around it: the model needs a
  recurrence or a convolution below this layer.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    kv_heads: int = 0,  # 0: as many as heads
    head_dim: int = 0,  # 0: dim / heads
    top: int = 3,  # spans of a query
    window_index: int = 3,  # w: the window has f(w + 1) - 1 keys
    backward: float = 2.0,  # b, of the keys before an anchor
    forward: float = 0.0,  # c, of the keys after it
    search_power: float = 0.5,  # p of f(i) = floor(i^(1/p))
    span_power: float = 0.5,  # r of the length of spans
    rope_theta: float = 10000.0,  # 0: no rotation
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    self.search = nnx.LinearGeneral(
      dim, (heads, size), use_bias=qkv_bias, kernel_init=_SEARCH_INIT, rngs=rngs
    )
    self.qkv = projections.QueryKeyValue(
      dim, heads, kv_heads, size, rope_theta=rope_theta, bias=qkv_bias, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.geometry = Geometry(
      top, window_index, backward, forward, search_power, span_power
    )
    self.kv_heads, self.size, self.impl = kv_heads, size, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.qkv.rope_theta:
      return {}
    return {"positions": "no rotation (rope_theta = 0); spans are of places in the row"}

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the rotated heads of every token, and its queries for the search."""
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    search, places = self.search(tokens.x), tokens.places
    q, k, v = self.qkv(tokens.x, places)
    # The search reads the rotated keys, so its queries are rotated as well.
    if self.qkv.rope_theta:
      search = rotary.rotate(search, places, theta=self.qkv.rope_theta)
    seen = {"segment_ids": tokens.ids}
    return Heads(q, k, v, tokens, seen, {"search": search})

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads; documents are runs of equal ids."""
    seen = heads.seen
    ids = seen.get("kv_segment_ids", seen["segment_ids"])
    given: dict[str, Any] = self.geometry._asdict() | {"impl": self.impl}
    given |= {"segment_ids": ids, "offset": seen.get("offset")}
    return attend(heads.more["search"], heads.q, heads.k, heads.v, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def spans(self, x: Float[Array, "B T D"]) -> search.Spans:
    """Returns the spans of each query, for one document without padding."""
    heads, T = self.project(x), x.shape[1]
    where = search.rows(jnp.zeros(x.shape[:2], jnp.int32), T, 0)
    found = search.span_search(heads.more["search"], heads.k, where, self.geometry, 0)
    return found[0]

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache with room for `length` tokens."""
    return self_attention.empty_cache(
      "causal", batch, length, self.kv_heads, self.size, dtype
    )

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)
