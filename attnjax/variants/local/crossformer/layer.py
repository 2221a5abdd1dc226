"""The layer: short and long distances take turns over the depth."""

from typing import Unpack

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.variants.local.crossformer.attention import IMPLEMENTATIONS, attend
from attnjax.variants.local.crossformer.position import DynamicBias

FORMS = ("image",)
KINDS = ("alternate", "short", "long")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Projections, the dynamic position bias and `attend`.

  On an image with a side of at most `window` the groups are windows of that side, at
  every depth, as in the official code.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    window: G.
    interval: I of the layers of long distance; ceil(side / G) of each axis if 0, so
      that a group spans the image.
    kind: "short", "long", or "alternate": layers of even index are short, the others
      long.
    dynamic_bias: whether there is a position bias.
    bias_width: of its network; D / 16 if 0, as in the official code.
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
    window: int = 7,
    interval: int = 0,
    kind: str = "alternate",
    dynamic_bias: bool = True,
    bias_width: int = 0,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS), kind=(kind, KINDS), impl=(impl, ("auto", *IMPLEMENTATIONS))
    )
    if window < 1 or interval < 0:
      raise ValueError(
        f"window = {window}, interval = {interval}: at least 1, and at least 0"
      )
    size = projections.head_size(dim, heads)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=qkv_bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    width = bias_width or max(dim // 16, 1)
    self.position = DynamicBias(width, heads, rngs=rngs) if dynamic_bias else None
    self.window, self.interval, self.kind, self.impl = window, interval, kind, impl

  def project(self, x: Float[Array, "B H W D"], **context: Unpack[Context]) -> Heads:
    """Returns the queries, keys and values of every token, on the grid of x."""
    tokens = contexts.accept(x, context, form="image")
    return Heads(*self.qkv.heads(tokens.x), tokens)

  def mix(self, heads: Heads) -> Float[Array, "B H W N E"]:
    """Returns `attend` of the heads; the layer's index chooses between the kinds."""
    q, k, v, index = heads.q, heads.k, heads.v, heads.tokens.index
    grid = q.shape[1:3]
    window = min(self.window, *grid)
    interval = self.interval or tuple(-(-side // window) for side in grid)
    bias_table = None if self.position is None else self.position(window)

    def mix(interval):
      options = {"window": window, "interval": interval, "impl": self.impl}
      return lambda q, k, v: attend(q, k, v, bias_table, **options)

    short, long = mix(1), mix(interval)
    if self.kind == "short" or min(grid) <= self.window:
      return short(q, k, v)
    if self.kind == "long":
      return long(q, k, v)
    if isinstance(index, int):
      return (long if index % 2 else short)(q, k, v)
    return jax.lax.cond(index % 2 == 0, short, long, q, k, v)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B H W D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B H W D"], **context: Unpack[Context]
  ) -> Float[Array, "B H W D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)
