"""The layer: projections without biases, tables of relative positions, `attend`."""

from typing import Any, Unpack

from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.variants.local.halo.attention import IMPLEMENTATIONS, attend

FORMS = ("image",)


class Layer(nnx.Module):
  """Halo attention on maps x (B, R, C, D).

  Its output is the heads' values side by side: the paper leaves the projection to the
  convolution that follows in its bottleneck. `output` adds one.

  Args:
    dim: D.
    form: "image".
    heads: N.
    head_dim: H of queries and keys; dim x value_ratio / heads if 0.
    value_ratio: N V in D.
    block: as in `attend`.
    halo: the same.
    stride: 2 halves the map; hosts with residuals need 1.
    pool: a map is halved by averages of 2 x 2 outputs instead of fewer queries; so it
      is anyway if `stride` does not divide `block`.
    positional: whether there are tables of relative positions.
    scale_positions: as in `attend`.
    true_offsets: the same.
    mask_padding: the same.
    qkv_bias: of the projections to queries, keys and values.
    output: whether the heads' outputs are projected, with a bias, to D.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 8,
    head_dim: int = 0,
    value_ratio: float = 1.0,
    block: int = 8,
    halo: int = 3,
    stride: int = 1,
    pool: bool = False,
    positional: bool = True,
    scale_positions: bool = False,
    true_offsets: bool = False,
    mask_padding: bool = False,
    qkv_bias: bool = False,
    output: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    _known(form, impl)
    values = projections.head_size(int(dim * value_ratio), heads)
    size = head_dim or values

    def project(width):
      return nnx.LinearGeneral(dim, (heads, width), use_bias=qkv_bias, rngs=rngs)

    self.query, self.key, self.value = map(project, (size, size, values))
    if positional:
      shape = (2 * (block + 2 * halo) - 1, size)
      init = nnx.initializers.truncated_normal(size**-0.5)
      self.row_table, self.column_table = (
        nnx.Param(init(rngs.params(), shape)) for _ in range(2)
      )
    self.out = (
      projections.output(heads, values, dim, bias=True, rngs=rngs) if output else None
    )
    self.pooled = stride if pool or block % stride else 1
    self.stride = stride // self.pooled
    self.positional, self.impl = positional, impl
    self.options = (
      ("block", block),
      ("halo", halo),
      ("stride", self.stride),
      ("scale_positions", scale_positions),
      ("true_offsets", true_offsets),
      ("mask_padding", mask_padding),
    )

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the queries (B, r, c, N, H), by the stride, and all keys and values."""
    tokens = contexts.accept(x, context, form="image")
    q = self.query(tokens.x[:, :: self.stride, :: self.stride])
    return Heads(q, self.key(tokens.x), self.value(tokens.x), tokens)

  def mix(self, heads: Heads) -> Float[Array, "B r c N V"]:
    """Returns `attend` of the heads, with the tables of relative positions."""
    options: dict[str, Any] = dict(self.options)
    if self.positional:
      options |= {"row_table": self.row_table[...]}
      options |= {"column_table": self.column_table[...]}
    return attend(heads.q, heads.k, heads.v, **options, impl=self.impl)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B r c E"]:
    """Returns the heads' results side by side or projected, and pooled by averages."""
    y = out.astype(heads.tokens.x.dtype)
    y = y.reshape(*y.shape[:3], -1) if self.out is None else self.out(y)
    if self.pooled > 1:
      y = nnx.avg_pool(y, (self.pooled,) * 2, (self.pooled,) * 2)
    return y

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B r c E"]:
    """Returns the map, E = D x value_ratio channels, or D with `output`."""
    return contexts.run(self, x, context)


def _known(form, impl):
  known = (("form", form, FORMS), ("impl", impl, ("auto", *IMPLEMENTATIONS)))
  for name, value, names in known:
    check_known(name, value, names)
