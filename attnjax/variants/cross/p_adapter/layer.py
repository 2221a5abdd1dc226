"""The layer: attention with the adapter, among tokens or from text to an image."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache, poison
from attnjax.core.exported import serializable
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
from attnjax.variants.cross.p_adapter import crossing
from attnjax.variants.cross.p_adapter.adapter import PAdapter
from attnjax.variants.cross.p_adapter.attention import attend
from attnjax.variants.softmax import dot_product

FORMS = ("causal", "sequence", "cross")


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The keys and values of all tokens so far, and their features, (B, L, N, C)."""

  attention: KeyValueCache
  features: Any


class Layer(nnx.Module):
  """Dot-product attention, with an adapter on the graph of its weights.

  Of the forms "causal" and "sequence" x (B, T, D) gives c' + y, and the parameters
  beside `adapter` are those of `dot_product`. Of the form "cross" the text attends to
  the image, and its new states are LN(x + c' + y), as in BERT.

  Args:
    dim: D; of "cross" the widths by the streams' names, or one for both.
    form: one of FORMS.
    heads: N.
    kv_heads: K; as many as heads if 0.
    reduction: r of the adapter, see `PAdapter`; 0: no adapter.
    p: see `PAdapter`; up to `zero_init`.
    mu: weight of the source.
    learn_p: whether p is a parameter.
    zero_init: whether the layer begins as its attention.
    pool: s of "cross", windows of the image's tokens that are nodes; 0: all tokens are.
    pool_padding: of "cross": windows count padding, which is read, as in the code.
    rope_theta: of rotary positions of "causal" and "sequence"; 0: none.
    qk_norm: whether queries and keys have an RMS norm.
    qkv_bias: biases of queries, keys and values.
    out_bias: bias of the output map.
    impl: of attention, any of `attnjax.attention`; the adapter's step is computed by
      "reference" if it is that, else by "xla".
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int | Mapping[str, int],
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,
    reduction: int = 8,
    p: float = 1.75,
    mu: float = 0.1,
    learn_p: bool = True,
    zero_init: bool = False,
    pool: int = 24,
    pool_padding: bool = False,
    rope_theta: float = 10000.0,
    qk_norm: bool = False,
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    check_known("impl", impl, ("auto", *dot_product.IMPLEMENTATIONS))
    widths = crossing.widths(dim)
    width = widths["text"]
    size = projections.head_size(width, heads)
    self.form, self.shape, self.impl = form, (heads, kv_heads or heads, size), impl
    self.pool, self.pool_padding = pool, pool_padding
    maps: dict[str, Any] = {"qk_norm": qk_norm, "bias": qkv_bias, "rngs": rngs}
    if form == "cross":
      self.qkv: Any = crossing.Projections(widths, *self.shape, **maps)
    else:
      self.qkv = projections.QueryKeyValue(
        width, *self.shape, rope_theta=rope_theta, **maps
      )
    self.out = projections.output(heads, size, width, bias=out_bias, rngs=rngs)
    self.norm = crossing.norm(width, rngs) if form == "cross" else None
    own = {"p": p, "mu": mu, "learn_p": learn_p, "zero_init": zero_init}
    made = PAdapter(width, heads, reduction=reduction or 1, **own, rngs=rngs)
    self.adapter = made if reduction else None

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.form == "cross":
      return crossing.REFUSES
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token."""
    return self_attention.heads(
      x, context, self.qkv, form=self.form, refuses=self.refuses
    )

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns the attention of the heads, without the adapter."""
    given: dict[str, Any] = {"causal": self.form == "causal", "impl": self.impl}
    return dot_product.attend(heads.q, heads.k, heads.v, **given, **heads.seen)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads, and what the adapter adds."""
    c = self.output(out, heads.tokens.x)
    if self.adapter is None:
      return c
    features = heads.more.get("features")
    features = self.features(heads.v) if features is None else features
    given: dict[str, Any] = {"causal": self.form == "causal"} | heads.seen
    numbers = self.adapter.numbers()
    message = attend(
      heads.q, heads.k, features, None, *numbers, impl=self.steps, **given
    )
    return c + self.adapter(c, message)

  def __call__(self, x: Any, **context: Unpack[Context]) -> Any:
    """Returns the layer's result; see `attnjax.contract.forms`."""
    if self.form == "cross":
      crossing.check(x, context, self.refuses)
      return {"text": crossing.states(self, x["text"], x["image"])}
    return contexts.run(self, x, context)

  def output(self, out: Float[Array, "B S N H"], x: Array) -> Float[Array, "B S D"]:
    """Returns the output map of values of heads, in the type of x."""
    return self.out(out.astype(x.dtype))

  def features(self, values: Float[Array, "B S K H"]) -> Float[Array, "B S N C"]:
    """Returns the adapter's features of values, which pass the output map first."""
    assert self.adapter is not None
    N, K, _ = self.shape
    values = jnp.repeat(values, N // values.shape[2], axis=2)
    return self.adapter.features(self.out(values))

  @property
  def steps(self) -> str:
    """Returns the implementation of the adapter's step."""
    return "reference" if self.impl == "reference" else "xla"

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Any:
    """Returns an empty cache with room for `length` tokens."""
    N, K, size = self.shape
    held = self_attention.empty_cache(self.form, batch, length, K, size, dtype, N)
    if self.adapter is None:
      return held
    width = self.adapter.into.out_features[0] // N
    return Cache(held, jnp.zeros((batch, length, N, width), dtype))

  def step(
    self, x: Float[Array, "B T D"], cache: Any, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the results of the next T tokens, and the cache after them."""
    if self.adapter is None:
      return self_attention.step(self, x, cache, context)
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    start = cache.attention.length
    heads = self.project(x, start=start, **context)
    ids = heads.tokens.ids
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    held = cache.attention.append(heads.k, heads.v, ids)
    full = start + x.shape[1] > held.room
    new = poison(self.features(heads.v).astype(cache.features.dtype), full)
    features = jax.lax.dynamic_update_slice_in_dim(cache.features, new, start, axis=1)
    seen = {"segment_ids": ids, "kv_segment_ids": held.segment_ids, "offset": start}
    heads = dataclasses.replace(
      heads, k=held.k, v=held.v, seen=seen, more={"features": features}
    )
    return self.merge(self.mix(heads), heads), Cache(held, features)
