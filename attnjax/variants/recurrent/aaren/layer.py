"""The Aaren layer: projections around a learned query token."""

import dataclasses
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import RecurrentCache
from attnjax.core.recurrence.prefix import State
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
from attnjax.variants.recurrent.aaren.attention import IMPLEMENTATIONS, attend

FORMS = ("causal", "sequence")
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Projections and `attend` with a learned query; x (B, T, D).

  The form "sequence", which is beyond the paper, adds the results over the tokens up to
  each token and over the tokens from it on.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,  # 0: as many as heads
    head_dim: int = 0,  # 0: dim / heads
    qkv_bias: bool = True,
    out_bias: bool = True,
    scale: float = 0.0,  # 0: H^-0.5
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    size = projections.head_size(dim, heads, head_dim)
    self.token = nnx.Param(_INIT(rngs.params(), (dim,)))
    self.qkv = projections.QueryKeyValue(
      dim, heads, kv_heads or heads, size, bias=qkv_bias, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.heads, self.size = form, heads, size
    self.scale, self.impl = scale or size**-0.5, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {"positions": "the mechanism knows no places; x must hold what is known"}

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the learned query (N, H), and the keys and values of every token."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    query = self.qkv.query(self.token[...].astype(x.dtype))
    k, v = self.qkv.key(tokens.x), self.qkv.value(tokens.x)
    return Heads(query, k, v, tokens, {"segment_ids": tokens.ids})

  def mix(self, heads: Heads) -> Float[Array, "B T N E"]:
    """Returns `attend` over prefixes; form "sequence" adds it over suffixes."""
    out = self._prefix(heads)
    if self.form == "causal":
      return out
    ids = heads.tokens.ids
    back = dataclasses.replace(
      heads,
      k=heads.k[:, ::-1],
      v=heads.v[:, ::-1],
      seen={"segment_ids": None if ids is None else ids[:, ::-1]},
    )
    return out + self._prefix(back)[:, ::-1]

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' outputs."""
    del heads
    return self.out(out)

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def init_cache(
    self, batch: int, length: int, dtype: Any = jnp.float32
  ) -> RecurrentCache:
    """Returns the empty state, whose size does not depend on `length`."""
    del length
    self_attention.check_decodes(self.form)
    shape = (batch, self.heads, self.size)
    state = State.empty(shape, jnp.promote_types(dtype, jnp.float32))
    return RecurrentCache.empty(state)

  def step(
    self, x: Float[Array, "B T D"], cache: RecurrentCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], RecurrentCache]:
    """Returns the outputs of the next T tokens, and the state after them."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    heads = self.project(x, **context)
    ids, out = heads.tokens.ids, cache.state.out
    state = cache.resumed(ids, State.empty(out.shape, out.dtype))
    out, state = self._prefix(heads, state, return_state=True)
    return self.merge(out, heads), cache.advanced(state, ids)

  def _prefix(self, heads: Heads, *state, **options):
    given: dict[str, Any] = {"scale": self.scale, "impl": self.impl}
    given |= heads.seen | options
    return attend(heads.q, heads.k, heads.v, *state, **given)
