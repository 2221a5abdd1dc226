"""The layer: projections, the importance of the values, `attend`."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.nn import projections, self_attention, unseen
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
    keep: keys that a query sees, at most.
    bias_form: "exp" or "linear", see `value_importance`.
    qk_norm: an RMS norm of each query and key head.
    rope_theta: of the rotary positions; none if 0.
    bias: of all projections.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    kv_heads: int = 0,
    head_dim: int = 0,
    keep: int = 2048,
    bias_form: str = "exp",
    qk_norm: bool = True,
    rope_theta: float = 10000.0,
    bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("bias_form", bias_form, selection.BIAS_FORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if keep < 1:
      raise ValueError(f"keep = {keep}; a query keeps at least 1 key")
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    self.project = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads,
      size,
      qk_norm=qk_norm,
      rope_theta=rope_theta,
      bias=bias,
      rngs=rngs,
    )
    self.importance = nnx.LinearGeneral(
      (kv_heads, size),
      kv_heads,
      axis=(-2, -1),
      use_bias=bias,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.amplitude = nnx.Param(_INIT(rngs.params(), (kv_heads,)))
    self.out = projections.output(heads, size, dim, bias=bias, rngs=rngs)
    self.form, self.keep, self.bias_form, self.impl = form, keep, bias_form, impl
    self.kv_heads, self.size = kv_heads, size

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
    _, (q, k, v), seen = self._inputs(x, segment_ids, padding, positions)
    return self.out(self._attend(q, k, v, self.importances(v), **seen).astype(x.dtype))

  def importances(self, v: Float[Array, "B T K H"]) -> Float[Array, "B T K"]:
    """What is added to the scores of each token, from all heads' values."""
    bias = self.importance.bias
    return selection.value_importance(
      v,
      self.importance.kernel[...],
      self.amplitude[...],
      offset=None if bias is None else bias[...],
      form=self.bias_form,
    )

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The softmax weights, (B, N, T, T) float32; 0 where a key is not kept."""
    del index
    _, (q, k, v), seen = self._inputs(x, segment_ids, padding, positions)
    eye = projections.identity_values(k)
    return self._attend(q, k, eye, self.importances(v), **seen).swapaxes(1, 2)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> decode.Cache:
    """Room for `keep` tokens; `length` is a bound only if it is smaller."""
    if self.form != "causal":
      raise NotImplementedError(
        f"form {self.form!r} does not decode; form 'causal' does"
      )
    slots = min(self.keep, length)
    return decode.Cache.empty(batch, slots, self.kv_heads, self.size, dtype)

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: decode.Cache,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], decode.Cache]:
    """The next T tokens, T >= 1, after those of the cache."""
    del index
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    x, ids = unseen.blank(x, segment_ids, padding)
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    q, k, v = self.project(x, cache.length + jnp.arange(x.shape[1]))
    out, cache = decode.step(
      q,
      k,
      v,
      self.importances(v),
      ids,
      cache,
      keep=self.keep,
      scale=None,
      impl=self.impl,
    )
    return self.out(out.astype(x.dtype)), cache

  def _inputs(self, x, segment_ids, padding, positions):
    return self_attention.inputs(
      x,
      self.project,
      form=self.form,
      segment_ids=segment_ids,
      padding=padding,
      positions=positions,
    )

  def _attend(self, q, k, v, importance, **seen):
    return attend(q, k, v, importance, keep=self.keep, **seen, impl=self.impl)
