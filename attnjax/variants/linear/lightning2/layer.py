"""The attention layers of TransNormer, TransNormerLLM and MiniMax-01."""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import RecurrentCache
from attnjax.nn import projections, unseen
from attnjax.variants.linear.lightning2.attention import IMPLEMENTATIONS, attend
from attnjax.variants.linear.lightning2.decay import SLOPE_KINDS, slopes
from attnjax.variants.linear.lightning2.positions import LRPE

FORMS = ("causal",)
GATES = ("lowrank", "full", "linear")
NORMS = ("layer", "rms", "simple_rms")
ACTIVATIONS = {
  "silu": nnx.silu,
  "gelu": nnx.gelu,
  "relu": nnx.relu,
  "none": lambda x: x,
}
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Projections, `attend`, a norm over all heads and a gate; x (B, T, D)."""

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    layers: int = 1,
    heads: int = 4,  # N
    head_dim: int = 0,  # H; 0: dim / heads
    slope_kind: str = "alibi",  # one of SLOPE_KINDS, see `slopes`
    act: str = "silu",  # of q, k and v, one of ACTIVATIONS
    act_values: bool = True,  # whether v is activated, too
    gate: str = "lowrank",  # "lowrank", "full", or "linear": full without a sigmoid
    norm: str = "layer",  # "layer", "rms" or "simple_rms", over all heads
    lrpe_base: float = 0.0,  # of `LRPE` in the first layer of a model; 0: none
    impl: str = "auto",  # as in `attend`
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      slope_kind=(slope_kind, SLOPE_KINDS),
      act=(act, ACTIVATIONS),
      gate=(gate, GATES),
      norm=(norm, NORMS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    size = projections.head_size(dim, heads, head_dim)
    merged = heads * size
    self.qkv = projections.QueryKeyValue(dim, heads, heads, size, rngs=rngs)
    self.out = projections.output(heads, size, dim, rngs=rngs)
    if norm == "layer":
      # The outputs are not normalised: their mean may be far above the deviation.
      self.norm = nnx.LayerNorm(
        merged, epsilon=1e-5, use_fast_variance=False, rngs=rngs
      )
    else:
      scaled = norm == "rms"
      self.norm = nnx.RMSNorm(merged, epsilon=1e-6, use_scale=scaled, rngs=rngs)
    self.lrpe = LRPE(heads, size, lrpe_base) if lrpe_base else None
    widths = (dim, size, merged) if gate == "lowrank" else (dim, merged)
    self.gate = nnx.List(
      nnx.Linear(*ends, use_bias=False, kernel_init=_INIT, rngs=rngs)
      for ends in zip(widths, widths[1:])
    )
    self.heads, self.size, self.layers = heads, size, layers
    self.slope_kind, self.act, self.impl = slope_kind, act, impl
    self.act_values, self.sigmoid = act_values, gate != "linear"

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {"positions": "a token's decay is that of its place in the row"}

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the activated heads of every token, and each head's decay."""
    tokens = contexts.accept(x, context, form="causal", refuses=self.refuses)
    act = ACTIVATIONS[self.act]
    q, k, v = self.qkv.heads(tokens.x)
    q, k, v = act(q), act(k), act(v) if self.act_values else v
    if self.lrpe is not None:
      # One program serves all layers of a scan: elsewhere all angles are 0.
      first = tokens.index == 0
      q, k = (self.lrpe(y, jnp.where(first, tokens.places, 0)) for y in (q, k))
    decay = slopes(self.heads, self.slope_kind, tokens.index, self.layers)
    return Heads(q, k, v, tokens, {"segment_ids": tokens.ids}, {"decay": decay})

  def mix(self, heads: Heads, **options) -> Any:
    """Returns `attend` of the heads, (B, T, N, E); `options` as in `attend`."""
    scale = self.size**-0.5 if self.slope_kind == "fla" else 1.0
    given: dict[str, Any] = {"scale": scale, "impl": self.impl}
    given |= heads.seen | options
    return attend(heads.q, heads.k, heads.v, heads.more["decay"], **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of the normalised, gated outputs; 0 at padding."""
    gate, ids = heads.tokens.x, heads.tokens.ids
    for project in self.gate:
      gate = project(gate)
    gate = nnx.sigmoid(gate) if self.sigmoid else gate
    y = self.norm(out.reshape(*out.shape[:2], -1)) * gate
    y = self.out(y.reshape(out.shape))
    # The bias of a layer norm would make the padding nonzero.
    return y if ids is None else jnp.where((ids >= 0)[..., None], y, 0)

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms.causal`."""
    return contexts.run(self, x, context)

  def init_cache(
    self, batch: int, length: int, dtype: Any = jnp.float32
  ) -> RecurrentCache:
    """Returns the zero state, whose size does not depend on `length`."""
    del length
    size = self.size if self.lrpe is None else 2 * self.size
    shape = (batch, self.heads, size, self.size)
    state = jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))
    return RecurrentCache.empty({"state": state, "length": jnp.zeros(batch, jnp.int32)})

  def step(
    self, x: Float[Array, "B T D"], cache: RecurrentCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], RecurrentCache]:
    """Returns the outputs of the next T tokens, and the state after them."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    length = cache.state["length"]
    heads = self.project(x, start=length[0], **context)
    ids = heads.tokens.ids
    nothing = {"state": jnp.zeros_like(cache.state["state"]), "length": length}
    state = cache.resumed(ids, nothing)["state"]
    out, state = self.mix(heads, initial_state=state, return_state=True)
    after = {"state": state, "length": length + x.shape[1]}
    return self.merge(out, heads), cache.advanced(after, ids)
