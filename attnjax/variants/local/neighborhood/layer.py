"""The layer: projections around `attend`."""

from collections.abc import Sequence
from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
from attnjax.variants.local.neighborhood import attention, decode

AXES = {"causal": 1, "sequence": 1, "image": 2, "video": 3}


class Layer(nnx.Module):
  """The official module: projections with bias, `attend`, a projection with bias.

  x is (B, T, D), (B, H, W, D) or, in the form "video", (B, F, H, W, D). An axis
  shorter than window x dilation is not an error as in `attend`: its dilation groups
  that are shorter than the window are seen whole, as short documents are.

  Args:
    dim: D.
    form: "causal", "sequence", "image" or "video".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    window: as in `attend`, one entry for each axis, or one for all.
    stride: as in `attend`, one entry for each axis, or one for all.
    dilation: as in `attend`, one entry for each axis, or one for all.
    causal: as in `attend`; the form "causal" is always causal, "sequence" never.
    scale: H^-0.5 if 0.
    qkv_bias: of the projections to queries, keys and values.
    out_bias: of the projection of all heads' results.
    rope_theta: rotary positions for forms of one axis; none if 0, as in the paper.
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
    window: int | Sequence[int] = 7,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    causal: bool | Sequence[bool] = False,
    scale: float = 0.0,
    qkv_bias: bool = True,
    out_bias: bool = True,
    rope_theta: float = 0.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, AXES)
    axes = attention.broadcast(AXES[form], window, stride, dilation, causal)
    if form == "sequence" and axes[0].causal:
      raise ValueError("causal = True in form 'sequence'; form 'causal' is for that")
    if rope_theta and len(axes) > 1:
      raise ValueError(
        f"rope_theta = {rope_theta}: form {form!r} has no order of tokens, it must be 0"
      )
    if form == "causal":
      axes = (axes[0]._replace(causal=True),)
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads or heads,
      size,
      rope_theta=rope_theta,
      bias=qkv_bias,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.axes, self.impl = form, axes, impl
    self.kv_heads, self.size, self.scale = kv_heads or heads, size, scale or None

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    reason = "windows count the tokens of a row, and nothing rotates (rope_theta = 0)"
    return {} if self.qkv.rope_theta else {"positions": reason}

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token, on the grid of x."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    q, k, v = (
      y.reshape(*x.shape[:-1], *y.shape[2:])
      for y in self.qkv(tokens.rows, tokens.places)
    )
    return Heads(q, k, v, tokens, {"segment_ids": tokens.ids})

  def mix(self, heads: Heads) -> Float[Array, "B *S N E"]:
    """Returns the attention in windows.

    Padding inside a row keeps its place: a window counts it, but no query sees it.
    """
    ids = heads.seen["segment_ids"]
    q, k, v, axes = heads.q, heads.k, heads.v, self.axes
    return attention.run(q, k, v, axes, None, None, ids, self.scale, self.impl)[0]

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> decode.Cache:
    """Returns an empty cache for a sequence of `length` tokens in all.

    It holds window x dilation tokens, for any length. With a stride above 1 the last
    window depends on where the sequence ends: the steps equal the layer's call for
    sequences of exactly that length, which begin with their padding, if any.
    """
    self_attention.check_decodes(self.form)
    slots = self.axes[0].window * self.axes[0].dilation
    return decode.Cache.empty(batch, length, slots, self.kv_heads, self.size, dtype)

  def step(
    self, x: Float[Array, "B T D"], cache: decode.Cache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], decode.Cache]:
    """Returns the outputs of the next T tokens, and the cache after them.

    Raises:
      NotImplementedError: for segment ids with a stride above 1.
    """
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    stride = self.axes[0].stride
    if context.get("segment_ids") is not None and stride > 1:
      raise NotImplementedError(
        f"segment_ids with stride = {stride}: windows depend on where a document ends,"
        " which a step cannot know"
      )
    heads = self.project(x, start=cache.length, **context)
    ids = heads.tokens.ids
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    given = self.axes[0], self.scale, self.impl
    out, cache = decode.step(heads.q, heads.k, heads.v, ids, cache, *given)
    return self.merge(out, heads), cache
