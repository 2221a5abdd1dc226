"""The layer: projections, and `attend` along a curve that makes blocks compact."""

import math
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.compaction import Compaction
from attnjax.core.grids import partition
from attnjax.nn import projections
from attnjax.ops import self_attention
from attnjax.variants.sparse.rectified_sparse.attention import IMPLEMENTATIONS, attend
from attnjax.variants.sparse.rectified_sparse.pooled import touching

FORMS = ("sequence", "image")
_FORMS = (*FORMS, "video")


class Layer(nnx.Module):
  """Projections and `attend`; x (B, T, D), (B, H, W, D) or (B, F, H, W, D).

  Images and, in the form "video", films are read along a Hilbert curve. Blocks with
  adjacent points are critical for each other.

  Args:
    dim: D.
    form: "sequence", "image" or "video".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    block: as in `attend`.
    mass: as in `attend`.
    min_blocks: as in `attend`.
    text: number of text tokens, the last ones; form "sequence" only.
    gain_test: as in `attend`.
    qk_norm: an RMS norm of each query and key head.
    rope_theta: rotary positions in the form "sequence"; none if 0.
    qkv_bias: of the projections to queries, keys and values.
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
    block: int = 128,
    mass: float = 0.3,
    min_blocks: int = 1,
    text: int = 0,
    gain_test: bool = True,
    qk_norm: bool = False,
    rope_theta: float = 0.0,
    qkv_bias: bool = True,
    out_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, _FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if form != "sequence" and (text or rope_theta):
      raise ValueError(
        f"text = {text}, rope_theta = {rope_theta} in form {form!r}; form 'sequence'"
        " takes them"
      )
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads or heads,
      size,
      qk_norm=qk_norm,
      rope_theta=rope_theta,
      bias=qkv_bias,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.text = form, text
    given = {"block": block, "mass": mass, "min_blocks": min_blocks, "text": text}
    self.options = (*given.items(), ("gain_test", gain_test), ("impl", impl))

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    reason = {"segment_ids": "a block may hold tokens of two documents"}
    return reason | ({} if self.qkv.rope_theta else contexts.NO_PLACES)

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token in row-major order."""
    return self_attention.heads(
      x, context, self.qkv, form=self.form, refuses=self.refuses
    )

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns `attend` of the tokens in the curve's order, in row-major order again.

    Padding between visual tokens has no effect.
    """
    shape, ids = heads.tokens.x.shape[1:-1], heads.seen["segment_ids"]
    q, k, v = heads.q, heads.k, heads.v
    options: dict[str, Any] = dict(self.options)
    end = math.prod(shape) - self.text
    if end < 1:
      raise ValueError(f"text = {self.text} of {end + self.text} tokens; one is visual")
    if len(shape) == 1:
      order, grid = np.arange(end), (end,)
    else:
      order, grid = partition.hilbert_order(shape), shape
    options["neighbours"] = touching(order, grid, options["block"])
    if ids is not None:
      moved = Compaction.of(ids[:, :end] >= 0)
      options["valid"] = jnp.concatenate([moved.real, ids[:, end:] >= 0], axis=1)

      def pack(x):
        return jnp.concatenate([moved.pack(x[:, :end]), x[:, end:]], axis=1)

      out = attend(*map(pack, (q, k, v)), **options)
      return jnp.concatenate([moved.unpack(out[:, :end]), out[:, end:]], axis=1)
    if len(shape) == 1:
      return attend(q, k, v, **options)
    out = attend(*(x[:, order] for x in (q, k, v)), **options)
    return out[:, partition.inverse(order)]

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' outputs, in the shape of the input."""
    x = heads.tokens.x
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)
