"""The layer: two sets of heads, each with its own projections."""

import dataclasses
from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.grids.pooling import means
from attnjax.nn import projections
from attnjax.ops import window_attention
from attnjax.variants.local.hilo.attention import IMPLEMENTATIONS, attend

FORMS = ("image",)
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """The official module: projections, `attend`, a projection for each kind of head.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    window: side of the windows; with 1 all heads are low.
    alpha: int(alpha N) heads are low.
    qkv_bias: of the projections to queries, keys and values.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    window: int = 2,
    alpha: float = 0.5,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if not 0 <= alpha <= 1:
      raise ValueError(f"alpha = {alpha}: it must be from 0 to 1")
    if window < 1:
      raise ValueError(f"window = {window}: it must be at least 1")
    size = projections.head_size(dim, heads)
    low = heads if window == 1 else int(heads * alpha)
    self.high = self._branch(dim, heads - low, size, qkv_bias, rngs)
    self.low = self._branch(dim, low, size, qkv_bias, rngs)
    self.window, self.impl = window, impl

  def project(self, x: Float[Array, "B H W D"], **context: Unpack[Context]) -> Heads:
    """Returns all queries, and k and v of the high heads; `more` has the low ones'."""
    tokens = contexts.accept(x, context, form="image")
    queries, k, v, more = [], None, None, {}
    if self.high is not None:
      q, k, v = self.high.qkv.heads(tokens.x)
      queries.append(q)
    if self.low is not None:
      qkv, cells = self.low.qkv, means(tokens.x, self.window)
      more = {"pooled_k": qkv.key(cells), "pooled_v": qkv.value(cells)}
      queries.append(qkv.query(tokens.x))
    return Heads(jnp.concatenate(queries, axis=-2), k, v, tokens, more=more)

  def mix(self, heads: Heads) -> Float[Array, "B H W N E"]:
    """Returns `attend` of the heads, the high ones first."""
    given = {"window": self.window, "impl": self.impl}
    return attend(heads.q, heads.k, heads.v, **heads.more, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B H W D"]:
    """Returns the channels of the high heads, then those of the low ones."""
    out = out.astype(heads.tokens.x.dtype)
    high = 0 if self.high is None else self.high.out.kernel.shape[0]
    parts = []
    if self.high is not None:
      parts.append(self.high.out(out[..., :high, :]))
    if self.low is not None:
      parts.append(self.low.out(out[..., high:, :]))
    return jnp.concatenate(parts, axis=-1)

  def __call__(
    self, x: Float[Array, "B H W D"], **context: Unpack[Context]
  ) -> Float[Array, "B H W D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns each head's weights; a pooled window's is divided among its tokens."""
    heads = self.project(x, **context)
    v, more = heads.v, heads.more
    if v is not None:
      v = window_attention.identity(x.shape[1:3], x.shape[0], v.shape[-2])
    if more:
      eye = window_attention.identity(
        x.shape[1:3], x.shape[0], more["pooled_v"].shape[-2]
      )
      more = more | {"pooled_v": means(eye, self.window)}
    out = self.mix(dataclasses.replace(heads, v=v, more=more))
    return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _branch(self, dim, heads, size, bias, rngs):
    return _Branch(dim, heads, size, bias, rngs=rngs) if heads else None


class _Branch(nnx.Module):
  def __init__(self, dim, heads, size, bias, *, rngs):
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(
      heads, size, heads * size, bias=True, init=_INIT, rngs=rngs
    )
