"""The layer: projections, the router, and attention with gated heads."""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.nn import projections
from attnjax.ops import self_attention
from attnjax.variants.heads.mixture_of_head.attention import (
  IMPLEMENTATIONS,
  attend,
  check_capacity,
)
from attnjax.variants.heads.mixture_of_head.router import Router

FORMS = ("causal", "sequence", "image")
_DROPS = (
  "tokens of a row compete for the places of a head: give a capacity of at least R /"
  " top_k, or 0, with the same parameters"
)


class Layer(nnx.Module):
  """Projections, rotary positions and `attend`; x (B, T, D) or (B, H, W, D).

  The balance loss exists in the backward pass only, so that every trainer adds it;
  `learn` also returns it. The gradient of a trainer that sums its loss over labels
  needs `counted` "token" or "example", that of a mean needs "batch".

  Args:
    dim: D.
    form: "causal", "sequence" or "image".
    layers: number of the model's layers, over which the loss is averaged.
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    shared: number of shared heads A; half of N if -1.
    top_k: routed heads that a token takes; half of the R = N - A routed ones if -1.
    router: "linear" or "query_norm", see `Router`.
    quantised: gates are 0 or 1, with a straight-through gradient.
    capacity: as in `attend`; below R / top_k later tokens of a row may lose heads.
    balance: weight of the balance loss in the gradient; none if 0.
    counted: how often a batch's loss counts: "token", "example" or "batch"; "auto":
      as labels are in the form's host, "token" if causal, else "example".
    qk_norm: an RMS norm of each query and key head.
    rope_theta: of the rotary positions; none if 0.
    qkv_bias: of the projections to queries, keys and values.
    out_bias: of the projection of all heads' results.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  chosen_keys = "masked"  # by a cache policy

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    layers: int = 1,
    heads: int = 8,
    kv_heads: int = 0,
    head_dim: int = 0,
    shared: int = -1,
    top_k: int = -1,
    router: str = "linear",
    quantised: bool = False,
    capacity: float = 0.0,
    balance: float = 0.01,
    counted: str = "auto",
    qk_norm: bool = False,
    rope_theta: float = 10000.0,
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    check_capacity(capacity)
    if qk_norm and router == "query_norm":
      raise ValueError(
        "qk_norm makes the norms of queries equal; router 'linear' does not read them"
      )
    if counted == "auto":
      counted = "token" if form == "causal" else "example"
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    self.router = Router(
      dim,
      heads,
      shared=shared,
      top_k=top_k,
      kind=router,
      quantised=quantised,
      balance=balance / layers,
      counted=counted,
      rngs=rngs,
    )
    options: dict[str, Any] = {"qk_norm": qk_norm, "rope_theta": rope_theta}
    self.qkv = projections.QueryKeyValue(
      dim, heads, kv_heads, size, bias=qkv_bias, **options, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.impl, self.capacity = form, impl, capacity
    self.heads, self.kv_heads, self.size = heads, kv_heads, size

  @property
  def drops(self) -> bool:
    """Returns whether a head's places may be too few for the tokens that take it."""
    routed = self.router.heads - self.router.shared
    return 0 < self.capacity * self.router.top_k < routed

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    packed = {"segment_ids": _DROPS} if self.drops else {}
    return packed | ({} if self.qkv.rope_theta else contexts.NO_PLACES)

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the rotated heads of every token, and the logits of its gates."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    q, k, v = self.qkv.heads(tokens.rows)
    logits = self.router.logits(tokens.rows, q)
    q, k = self.qkv.rotate(q, k, tokens.places)
    return Heads(q, k, v, tokens, {"segment_ids": tokens.ids}, logits)

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns `attend` of the heads."""
    router = self.router
    given: dict[str, Any] = {"causal": self.form == "causal", "impl": self.impl}
    given |= {"top_k": router.top_k, "quantised": router.quantised}
    given |= {"capacity": self.capacity, **heads.seen, **heads.more}
    return attend(heads.q, heads.k, heads.v, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' outputs, in the shape of the input.

    Its backward pass adds the gradient of the balance loss.
    """
    x, ids = heads.tokens.x, heads.tokens.ids
    out = self.router.learning(out, heads.more, ids)
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def learn(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> tuple[Float[Array, "B *S D"], Float[Array, ""]]:
    """Returns (y, the balance loss), for a trainer that adds the loss itself.

    The loss has no weight yet. The layer should have `balance` = 0, or it counts twice.
    """
    heads = self.project(x, **context)
    loss = self.router.loss(heads.more, heads.tokens.ids)
    return self.merge(self.mix(heads), heads), loss

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache with room for `length` tokens.

    Raises:
      NotImplementedError: if the form does not decode, or tokens may lose heads.
    """
    if self.drops:
      raise NotImplementedError(f"capacity = {self.capacity} does not decode: {_DROPS}")
    return self_attention.empty_cache(
      self.form, batch, length, self.kv_heads, self.size, dtype, self.heads
    )

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)
