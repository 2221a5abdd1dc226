"""The layer: projections, the importance of the tokens' values, and `attend`."""

import dataclasses
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
from attnjax.variants.sparse.dynamic_mask import decode, selection
from attnjax.variants.sparse.dynamic_mask.attention import IMPLEMENTATIONS, attend

FORMS = ("causal", "sequence")
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Doge's attention; x (B, T, D).

  Args:
    dim: D.
    form: "causal" or "sequence".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    keep_keys: keys that a query sees, at most.
    bias_form: "exp" or "linear", see `value_importance`.
    qk_norm: an RMS norm of each query and key head.
    rope_theta: of the rotary positions; none if 0.
    qkv_bias: of the projections to queries, keys, values and importances.
    out_bias: of the projection of all heads' results.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,
    head_dim: int = 0,
    keep_keys: int = 2048,
    bias_form: str = "exp",
    qk_norm: bool = True,
    rope_theta: float = 10000.0,
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      bias_form=(bias_form, selection.BIAS_FORMS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if keep_keys < 1:
      raise ValueError(f"keep_keys = {keep_keys}; a query keeps at least 1 key")
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads,
      size,
      qk_norm=qk_norm,
      rope_theta=rope_theta,
      bias=qkv_bias,
      rngs=rngs,
    )
    self.importance = nnx.LinearGeneral(
      (kv_heads, size),
      kv_heads,
      axis=(-2, -1),
      use_bias=qkv_bias,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.amplitude = nnx.Param(_INIT(rngs.params(), (kv_heads,)))
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.keep_keys, self.bias_form = form, keep_keys, bias_form
    self.kv_heads, self.size, self.impl = kv_heads, size, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the rotated queries and keys, the values, and each token's importance."""
    heads = self_attention.heads(
      x, context, self.qkv, form=self.form, refuses=self.refuses
    )
    more = {"importance": self.importances(heads.v)}
    return dataclasses.replace(heads, more=more)

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads; documents are runs of equal ids."""
    given: dict[str, Any] = {
      "causal": self.form == "causal",
      "keep_keys": self.keep_keys,
    }
    given |= {"impl": self.impl} | heads.seen
    return attend(heads.q, heads.k, heads.v, heads.more["importance"], **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def importances(self, v: Float[Array, "B T K H"]) -> Float[Array, "B T K"]:
    """Returns the bias added to the scores of each token, from all heads' values."""
    bias = self.importance.bias
    return selection.value_importance(
      v,
      self.importance.kernel[...],
      self.amplitude[...],
      offset=None if bias is None else bias[...],
      form=self.bias_form,
    )

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> decode.Cache:
    """Returns an empty cache for min(keep_keys, length) tokens."""
    self_attention.check_decodes(self.form)
    slots = min(self.keep_keys, length)
    return decode.Cache.empty(batch, slots, self.kv_heads, self.size, dtype)

  def step(
    self, x: Float[Array, "B T D"], cache: decode.Cache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], decode.Cache]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    heads = self.project(x, start=cache.length, **context)
    out, cache = decode.step(heads, cache, keep_keys=self.keep_keys, impl=self.impl)
    return self.merge(out, heads), cache
