"""The layer: features weighed by Gaussians alone, or around softmax attention."""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import RecurrentCache
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
from attnjax.variants.mixers.gaussian_adaptive.attention import IMPLEMENTATIONS
from attnjax.variants.mixers.gaussian_adaptive.block import Gaussians
from attnjax.variants.softmax import dot_product

FORMS = ("causal", "sequence", "image")
AXES = ("features", "tokens")
APPLIED = ("alone", "input", "key", "value")
_NO_PLACES = {"positions": "Gaussian weights know no places, and nothing else is there"}


class Layer(nnx.Module):
  """Gaussian adaptive attention; x (B, T, D) or (B, H, W, D).

  Args:
    dim: D.
    form: "causal", "sequence" or "image".
    heads: M, chunks of the axis.
    gaussians: K, of each head.
    axis: "features": each token is weighed alone; "tokens": along the row, each
      document by itself, or along all points of an image; not causal.
    apply_to: "alone": the output is `attend` of x, and the host's residual is the
      block's; "input", "key" or "value": softmax attention, in which this is y +
      `attend` of y.
    attention_heads: N, of the softmax attention; M if 0.
    rope_theta: of its rotary positions; none if 0.
    impl: as in `attend` and, for the softmax attention, `dot_product.attend`.
    rngs: for the parameters.
  """

  chosen_keys = "gathered"  # by a cache policy

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    gaussians: int = 4,
    axis: str = "features",
    apply_to: str = "alone",
    attention_heads: int = 0,
    rope_theta: float = 10000.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      axis=(axis, AXES),
      apply_to=(apply_to, APPLIED),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if axis == "tokens" and form == "causal":
      raise ValueError(
        "axis 'tokens' sees later tokens; form 'causal' takes 'features'"
      )
    if axis == "features" and heads > dim:
      raise ValueError(f"heads = {heads}: {dim} features have no more chunks")
    self.gaussians = Gaussians(heads, gaussians, rngs=rngs)
    alone = apply_to == "alone"
    heads = attention_heads or heads
    size = 0 if alone else projections.head_size(dim, heads)
    rope = {"rope_theta": rope_theta}
    self.qkv = (
      None
      if alone
      else projections.QueryKeyValue(dim, heads, heads, size, **rope, rngs=rngs)
    )
    self.out = None if alone else projections.output(heads, size, dim, rngs=rngs)
    self.form, self.axis, self.apply_to, self.impl = form, axis, apply_to, impl
    self.shape, self.rope_theta = (heads, size), rope_theta

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.qkv is None:
      return _NO_PLACES
    return {} if self.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns x as the values of one head; or the heads of the softmax attention."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    rows, seen = tokens.rows, {"segment_ids": tokens.ids}
    if self.qkv is None:
      return Heads(None, None, rows[:, :, None], tokens, seen)
    if self.apply_to == "input":
      rows = self._added(rows, tokens.ids)
    q, k, v = self.qkv.heads(rows)
    if self.apply_to == "key":
      k = self._added(k, tokens.ids)
    if self.apply_to == "value":
      v = self._added(v, tokens.ids)
    q, k = self.qkv.rotate(q, k, tokens.places)
    return Heads(q, k, v, tokens, seen)

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns `attend` of x as one head, or the softmax attention of the heads."""
    if self.qkv is None:
      return self._weighed(heads.v, heads.tokens.ids)
    given: dict[str, Any] = {"causal": self.form == "causal", "impl": self.impl}
    return dot_product.attend(heads.q, heads.k, heads.v, **given, **heads.seen)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the output in the shape of the input."""
    x = heads.tokens.x
    y = out if self.out is None else self.out(out.astype(x.dtype))
    return y.reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B N T S"]:
    """Returns the weights of the softmax attention.

    Raises:
      NotImplementedError: without one; `attend` returns the weights of features.
    """
    if self.qkv is None:
      raise NotImplementedError(
        "Gaussian weights are of features, not of pairs of tokens"
      )
    return contexts.shares(self, self.project(x, **context))

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Any:
    """Returns an empty cache of keys and values; alone the last document's id."""
    if self.qkv is not None:
      heads, size = self.shape
      return self_attention.empty_cache(
        self.form, batch, length, heads, size, dtype, heads
      )
    self_attention.check_decodes(self.form)
    return RecurrentCache((), jnp.full((batch,), -1, jnp.int32))

  def step(
    self, x: Float[Array, "B T D"], cache: Any, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    if self.qkv is not None:
      return self_attention.step(self, x, cache, context)
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    heads = self.project(x, **context)
    return self.merge(self.mix(heads), heads), cache.advanced((), heads.tokens.ids)

  def _weighed(self, y: Float[Array, "B T ..."], ids: Any) -> Array:
    """Returns `attend` of the features of all heads together, or along the tokens."""
    flat = y.reshape(*y.shape[:2], -1)
    given: dict[str, Any] = {"impl": self.impl}
    if self.axis == "tokens":
      given |= {"axis": 1, "segment_ids": ids}
    return self.gaussians(flat, **given).reshape(y.shape)

  def _added(self, y: Array, ids: Any) -> Array:
    return y + self._weighed(y, ids)
