"""The layer: short and long distances take turns over the depth."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.contract import check_known
from attnjax.nn import projections, unseen, windowed
from attnjax.variants.local.crossformer.attention import IMPLEMENTATIONS, attend
from attnjax.variants.local.crossformer.position import DynamicBias

FORMS = ("image",)
KINDS = ("alternate", "short", "long")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Projections, the dynamic position bias and `attend`.

  On an image with a side of at most `group` the groups are windows of that side, at
  every depth, as in the official code.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    group: G.
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
    group: int = 7,
    interval: int = 0,
    kind: str = "alternate",
    dynamic_bias: bool = True,
    bias_width: int = 0,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("kind", kind, KINDS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if group < 1 or interval < 0:
      raise ValueError(
        f"group = {group}, interval = {interval}: at least 1, and at least 0"
      )
    size = projections.head_size(dim, heads)
    self.project = projections.QueryKeyValue(
      dim, heads, heads, size, bias=qkv_bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    width = bias_width or max(dim // 16, 1)
    self.position = DynamicBias(width, heads, rngs=rngs) if dynamic_bias else None
    self.group, self.interval, self.kind, self.impl = group, interval, kind, impl

  def __call__(
    self, x: Float[Array, "B H W D"], *, index: Int[Array, ""] | int = 0
  ) -> Float[Array, "B H W D"]:
    """The layer's result; `index` chooses between short and long."""
    if 0 in x.shape:
      return unseen.nothing(self, x)
    q, k, v = self.project.query(x), self.project.key(x), self.project.value(x)
    return self.out(self._mix(q, k, v, index).astype(x.dtype))

  def weights(self, x: Float[Array, "B H W D"], *, index=0) -> Float[Array, "B N T T"]:
    """The softmax weights, row by row of the image."""
    q, k = self.project.query(x), self.project.key(x)
    eye = windowed.identity(x.shape[1:3], x.shape[0], k.shape[-2])
    out = self._mix(q, k, eye, index)
    return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _mix(self, q, k, v, index):
    grid = q.shape[1:3]
    group = min(self.group, *grid)
    interval = self.interval or tuple(-(-side // group) for side in grid)
    table = None if self.position is None else self.position(group)

    def mix(interval):
      options = {"group": group, "interval": interval, "impl": self.impl}
      return lambda q, k, v: attend(q, k, v, table, **options)

    short, long = mix(1), mix(interval)
    if self.kind == "short" or min(grid) <= self.group:
      return short(q, k, v)
    if self.kind == "long":
      return long(q, k, v)
    if isinstance(index, int):
      return (long if index % 2 else short)(q, k, v)
    return jax.lax.cond(index % 2 == 0, short, long, q, k, v)
