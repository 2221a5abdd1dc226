"""The attention layers of TransNormer and MiniMax-01."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import linear
from attnjax.core.exported import serializable
from attnjax.nn import projections, unseen
from attnjax.variants.linear.lightning2.attention import IMPLEMENTATIONS, attend
from attnjax.variants.linear.lightning2.decay import SLOPE_KINDS, slopes

FORMS = ("causal",)
GATES = ("lowrank", "full")
NORMS = ("layer", "rms")
ACTIVATIONS = {
  "silu": nnx.silu,
  "gelu": nnx.gelu,
  "relu": nnx.relu,
  "none": lambda x: x,
}
_INIT = nnx.initializers.normal(0.02)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What decoding keeps; its size does not depend on the number of tokens.

  Attributes:
    state: (B, N, H, E), float32 (float64 for float64).
    segment_ids: int32, (B,), of the last real token; -1 before the first one.
  """

  state: Any
  segment_ids: Any


class Layer(nnx.Module):
  """Projections, `attend`, a norm over all heads and a gate; x (B, T, D)."""

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    layers: int = 1,
    heads: int = 4,
    head_dim: int = 0,  # 0: dim / heads
    slope_kind: str = "alibi",
    act: str = "silu",
    gate: str = "lowrank",
    norm: str = "layer",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("slope_kind", slope_kind, SLOPE_KINDS),
      ("act", act, ACTIVATIONS),
      ("gate", gate, GATES),
      ("norm", norm, NORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    size = projections.head_size(dim, heads, head_dim)
    merged = heads * size
    self.project = projections.QueryKeyValue(dim, heads, heads, size, rngs=rngs)
    self.out = projections.output(heads, size, dim, rngs=rngs)
    if norm == "layer":
      # The outputs are not normalised: a mean may be far above the deviation.
      self.norm = nnx.LayerNorm(
        merged, epsilon=1e-5, use_fast_variance=False, rngs=rngs
      )
    else:
      self.norm = nnx.RMSNorm(merged, epsilon=1e-6, rngs=rngs)
    widths = (dim, size, merged) if gate == "lowrank" else (dim, merged)
    self.gate = nnx.List(
      nnx.Linear(*ends, use_bias=False, kernel_init=_INIT, rngs=rngs)
      for ends in zip(widths, widths[1:])
    )
    self.heads, self.size, self.layers = heads, size, layers
    self.slope_kind, self.act, self.impl = slope_kind, act, impl

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B T D"]:
    """(B, T, D); 0 at the padding.

    `positions` are not used: the decay, by tokens, is all the mechanism knows of them.
    """
    del positions
    if 0 in x.shape:
      return unseen.nothing(self, x)
    x, ids = unseen.blank(x, segment_ids, padding)
    return self._finish(x, self._attend(x, index, segment_ids=ids), ids)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The decayed scores, (B, N, T, T) float32; their rows do not sum to 1."""
    del positions
    x, ids = unseen.blank(x, segment_ids, padding)
    out = self._attend(x, index, weights=True, segment_ids=ids)
    return out.swapaxes(1, 2)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> State:
    """The zero state; no `length` is too long for it."""
    del length
    shape = (batch, self.heads, self.size, self.size)
    state = jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))
    return State(state, jnp.full((batch,), -1, jnp.int32))

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: State,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], State]:
    """The next T tokens, T >= 1, after those of the cache."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    x, ids = unseen.blank(x, segment_ids, padding)
    whole = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    filled, _ = linear.spans(whole)
    first, last = filled[:, 0], filled[:, -1]
    goes_on = (first == cache.segment_ids) | (first < 0)
    state = jnp.where(goes_on[:, None, None, None], cache.state, 0)
    out, state = self._attend(
      x, index, segment_ids=ids, initial_state=state, return_state=True
    )
    cache = State(state, jnp.where(last < 0, cache.segment_ids, last))
    return self._finish(x, out, ids), cache

  def _attend(self, x, index, weights=False, **options):
    q, k, v = map(ACTIVATIONS[self.act], self.project(x, jnp.arange(x.shape[1])))
    if weights:
      v = projections.identity_values(k)
    scale = self.size**-0.5 if self.slope_kind == "fla" else 1.0
    decay = slopes(self.heads, self.slope_kind, index, self.layers)
    return attend(q, k, v, decay, scale=scale, impl=self.impl, **options)

  def _finish(self, x, out, ids):
    gate = x
    for project in self.gate:
      gate = project(gate)
    y = self.norm(out.reshape(*out.shape[:2], -1)) * nnx.sigmoid(gate)
    y = self.out(y.reshape(out.shape))
    # The bias of a layer norm would make something of nothing.
    return y if ids is None else jnp.where((ids >= 0)[..., None], y, 0)
