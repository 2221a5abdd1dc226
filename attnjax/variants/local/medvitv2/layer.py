"""The layer: projections and the table around `attend`."""

from typing import Any, Unpack

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.variants.local.medvitv2.attention import IMPLEMENTATIONS, attend

FORMS = ("image",)
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Neighbourhood attention with biases and a table of relative positions.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    window: w.
    dilation: of every layer; if 0, floor(side / w) of each axis, at least 1, in layers
      of odd index, and 1 in the others.
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
    dilation: int = 0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if window < 1 or dilation < 0:
      raise ValueError(
        f"window = {window}, dilation = {dilation}: at least 1, and at least 0"
      )
    size = projections.head_size(dim, heads)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.bias_table = nnx.Param(_INIT(rngs.params(), (2 * window - 1,) * 2 + (heads,)))
    self.window, self.dilation, self.impl = window, dilation, impl

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the queries, keys and values of every token, on the grid of x."""
    tokens = contexts.accept(x, context, form="image")
    return Heads(*self.qkv.heads(tokens.x), tokens)

  def mix(self, heads: Heads) -> Float[Array, "B R C N E"]:
    """Returns `attend` of the heads; the index chooses whether it is dilated."""
    q, k, v, index = heads.q, heads.k, heads.v, heads.tokens.index

    def mix(dilation) -> Any:
      options: dict[str, Any] = {"window": self.window, "impl": self.impl}
      bias_table = self.bias_table[...]
      return lambda q, k, v: attend(q, k, v, bias_table, dilation=dilation, **options)

    near = mix(self.dilation or 1)
    steps = tuple(max(side // self.window, 1) for side in q.shape[1:3])
    if self.dilation or max(steps) == 1:
      return near(q, k, v)
    if isinstance(index, int):
      return (mix(steps) if index % 2 else near)(q, k, v)
    return jax.lax.cond(index % 2 == 0, near, mix(steps), q, k, v)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B R C D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B R C D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)
