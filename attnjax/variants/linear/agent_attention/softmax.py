"""The softmax attention of the blocks without agents: of all tokens, or in windows."""

from typing import Any, Unpack

from flax import nnx
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.grids import partition
from attnjax.nn import projections
from attnjax.ops import window_attention
from attnjax.variants.linear.agent_attention.reduction import Reduction

_INIT = nnx.initializers.truncated_normal(0.02)


class Softmax(nnx.Module):
  """Softmax attention; x is (B, T, D), or (B, H, W, D).

  Args:
    dim: D.
    heads: N.
    window: side of an image's windows, with a bias for each offset of a key in them, as
      in Swin; padding at the end of the image is not seen. None if 0.
    shift: row and column at which windows begin, cyclically; tokens of opposite borders
      do not see each other. No shift of images that have a side of one window.
    sr_ratio: as in `Layer`; images only.
    qkv_bias: of the projections to queries, keys and values.
    impl: as in `attnjax.attention`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    window: int = 0,
    shift: int = 0,
    sr_ratio: int = 1,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    if window and sr_ratio > 1:
      raise ValueError(f"window = {window} and sr_ratio = {sr_ratio}: one of them")
    size = projections.head_size(dim, heads)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=qkv_bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    if sr_ratio > 1:
      self.reduce = Reduction(dim, sr_ratio, rngs=rngs)
    if window:
      shape = heads, 2 * window - 1, 2 * window - 1
      self.bias_table = nnx.Param(_INIT(rngs.params(), shape))
    self.window, self.shift, self.sr_ratio, self.impl = window, shift, sr_ratio, impl

  def project(
    self,
    x: Float[Array, "B *S D"],
    *,
    grid: tuple[int, ...] = (),
    **context: Unpack[Context],
  ) -> Heads:
    """Returns the heads of every token; k and v have the reduced grid as S."""
    del grid  # nothing here has a place but in windows
    form = "image" if x.ndim == 4 else "sequence"
    tokens = contexts.accept(x, context, form=form)
    few = self.reduce(tokens.x) if self.sr_ratio > 1 else tokens.x
    q, k, v = self.qkv.query(tokens.x), self.qkv.key(few), self.qkv.value(few)
    return Heads(q, k, v, tokens)

  def mix(self, heads: Heads) -> Float[Array, "B *S N E"]:
    """Returns softmax attention of the heads."""
    q, k, v = heads.q, heads.k, heads.v
    if self.window:
      sides = q.shape[1:3]
      shift = self.shift if self.window < min(sides) else 0
      parts = partition.Partition(sides, self.window, offset=shift)
      bias = partition.relative(self.bias_table[...])
      return window_attention.attend(q, k, v, parts, bias=bias, impl=self.impl)
    rows = [y.reshape(len(y), -1, *y.shape[-2:]) for y in (q, k, v)]
    out, _ = attention.attend(*rows, impl=self.impl)
    return out.reshape(*q.shape[:-1], -1)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Any
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output in the shape of x."""
    return self.merge(self.mix(heads := self.project(x, **context)), heads)
