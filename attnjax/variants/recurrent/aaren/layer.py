"""The Aaren layer: projections around a learned query token."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import linear
from attnjax.core.exported import serializable
from attnjax.core.scan import State
from attnjax.nn import projections, unseen
from attnjax.variants.recurrent.aaren.attention import IMPLEMENTATIONS, attend

FORMS = ("causal", "sequence")
_INIT = nnx.initializers.normal(0.02)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """What decoding keeps; its size does not depend on the number of tokens.

  Attributes:
    state: (B, N) twice and (B, N, H), float32 (float64 for float64).
    segment_ids: int32, (B,), of the last real token; -1 before the first one.
  """

  state: Any
  segment_ids: Any


class Layer(nnx.Module):
  """Projections and `attend` with a learned query; x (B, T, D).

  The form "sequence" adds to what a token makes of those before it and itself what it
  makes of itself and those after it; that is beyond the paper.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    kv_heads: int = 0,  # 0: as many as heads
    head_dim: int = 0,  # 0: dim / heads
    bias: bool = True,
    qk_scale: float = 0.0,  # 0: H^-0.5
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    size = projections.head_size(dim, heads, head_dim)
    self.token = nnx.Param(_INIT(rngs.params(), (dim,)))
    self.project = projections.QueryKeyValue(
      dim, heads, kv_heads or heads, size, bias=bias, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=bias, rngs=rngs)
    self.form, self.heads, self.size = form, heads, size
    self.scale, self.impl = qk_scale or size**-0.5, impl

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B T D"]:
    """(B, T, D). `positions` and `index` are not used: x must hold what is known."""
    del positions, index
    if 0 in x.shape:
      return unseen.nothing(self, x)
    x, ids = unseen.blank(x, segment_ids, padding)
    return self.out(self._mix(*self._heads(x), segment_ids=ids))

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The weights, (B, N, T, T) float32; rows sum to 1, or 2 in form "sequence"."""
    del positions, index
    x, ids = unseen.blank(x, segment_ids, padding)
    query, k, _ = self._heads(x)
    eye = projections.identity_values(k)
    return self._mix(query, k, eye, segment_ids=ids).swapaxes(1, 2)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Cache:
    """The state of no tokens; no `length` is too long for it."""
    del length
    if self.form != "causal":
      raise NotImplementedError(
        f"form {self.form!r} does not decode; form 'causal' does"
      )
    shape = (batch, self.heads, self.size)
    state = State.empty(shape, jnp.promote_types(dtype, jnp.float32))
    return Cache(state, jnp.full((batch,), -1, jnp.int32))

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Cache,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], Cache]:
    """The next T tokens, T >= 1, after those of the cache."""
    del index
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    x, ids = unseen.blank(x, segment_ids, padding)
    whole = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    filled, _ = linear.spans(whole)
    first, last = filled[:, 0], filled[:, -1]
    goes_on = (first == cache.segment_ids) | (first < 0)
    nothing = State.empty(cache.state.out.shape, cache.state.out.dtype)
    state = jax.tree.map(
      lambda x, y: jnp.where(goes_on.reshape(-1, *(1,) * (x.ndim - 1)), x, y),
      cache.state,
      nothing,
    )
    out, state = attend(
      *self._heads(x),
      state,
      segment_ids=ids,
      scale=self.scale,
      return_state=True,
      impl=self.impl,
    )
    cache = Cache(state, jnp.where(last < 0, cache.segment_ids, last))
    return self.out(out), cache

  def _heads(self, x):
    """The learned query (N, H), and the keys and values of x."""
    query = self.project.query(self.token[...].astype(x.dtype))
    return query, self.project.key(x), self.project.value(x)

  def _mix(self, query, k, v, *, segment_ids):
    options = {"scale": self.scale, "impl": self.impl}
    out = attend(query, k, v, segment_ids=segment_ids, **options)
    if self.form == "causal":
      return out
    ids = None if segment_ids is None else segment_ids[:, ::-1]
    back = attend(query, k[:, ::-1], v[:, ::-1], segment_ids=ids, **options)
    return out + back[:, ::-1]
