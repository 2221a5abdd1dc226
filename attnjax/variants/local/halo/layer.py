"""The layer: projections without biases, tables of relative positions, `attend`."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.nn import projections, unseen
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
    bias: of the projections to queries, keys and values.
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
    bias: bool = False,
    output: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    _known(form, impl)
    values = projections.head_size(int(dim * value_ratio), heads)
    size = head_dim or values

    def project(width):
      return nnx.LinearGeneral(dim, (heads, width), use_bias=bias, rngs=rngs)

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

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B r c E"]:
    """The map, E = D x value_ratio channels, or D with `output`.

    Raises:
      NotImplementedError: for segments or padding; a map has none.
    """
    del positions, index
    if 0 in x.shape:
      return unseen.nothing(self, x)
    if not (segment_ids is None and padding is None):
      raise NotImplementedError("form 'image' takes no segment_ids and no padding")
    y = self._mix(x, self.value(x)).astype(x.dtype)
    y = y.reshape(*y.shape[:3], -1) if self.out is None else self.out(y)
    if self.pooled > 1:
      y = nnx.avg_pool(y, (self.pooled,) * 2, (self.pooled,) * 2)
    return y

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """How much each query takes of each token, (B, N, r c, R C) float32.

    Rows sum to less than 1 where zeros beyond the map are seen.
    """
    del segment_ids, padding, positions, index
    B, R, C, _ = x.shape
    eye = jnp.eye(R * C, dtype=jnp.float32).reshape(1, R, C, 1, R * C)
    eye = jnp.broadcast_to(eye, (B, R, C, self.query.out_features[0], R * C))
    out = self._mix(x, eye)
    return out.reshape(B, -1, *out.shape[3:]).swapaxes(1, 2)

  def _mix(self, x, v):
    q = self.query(x[:, :: self.stride, :: self.stride])
    options: dict[str, Any] = dict(self.options)
    if self.positional:
      options |= {"row_table": self.row_table[...]}
      options |= {"column_table": self.column_table[...]}
    return attend(q, self.key(x), v, **options, impl=self.impl)


def _known(form, impl):
  known = (("form", form, FORMS), ("impl", impl, ("auto", *IMPLEMENTATIONS)))
  for name, value, names in known:
    check_known(name, value, names)
