"""The layer: projections and the table around `attend`."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.contract import check_known
from attnjax.nn import projections, unseen, windowed
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
    for name, value, known in (
      ("form", form, FORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if window < 1 or dilation < 0:
      raise ValueError(
        f"window = {window}, dilation = {dilation}: at least 1, and at least 0"
      )
    size = projections.head_size(dim, heads)
    self.project = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.table = nnx.Param(_INIT(rngs.params(), (2 * window - 1,) * 2 + (heads,)))
    self.window, self.dilation, self.impl = window, dilation, impl

  def __call__(
    self, x: Float[Array, "B R C D"], *, index: Int[Array, ""] | int = 0
  ) -> Float[Array, "B R C D"]:
    """The same shape as x; `index` chooses whether it is dilated."""
    if 0 in x.shape:
      return unseen.nothing(self, x)
    q, k, v = self.project.query(x), self.project.key(x), self.project.value(x)
    return self.out(self._mix(q, k, v, index).astype(x.dtype))

  def weights(
    self, x: Float[Array, "B R C D"], *, index: Int[Array, ""] | int = 0
  ) -> Float[Array, "B N T T"]:
    """The softmax weights, row by row of the map."""
    q, k = self.project.query(x), self.project.key(x)
    eye = windowed.identity(x.shape[1:3], x.shape[0], k.shape[-2])
    out = self._mix(q, k, eye, index)
    return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _mix(self, q, k, v, index):
    def mix(dilation) -> Any:
      options: dict[str, Any] = {"window": self.window, "impl": self.impl}
      table = self.table[...]
      return lambda q, k, v: attend(q, k, v, table, dilation=dilation, **options)

    near = mix(self.dilation or 1)
    steps = tuple(max(side // self.window, 1) for side in q.shape[1:3])
    if self.dilation or max(steps) == 1:
      return near(q, k, v)
    if isinstance(index, int):
      return (mix(steps) if index % 2 else near)(q, k, v)
    return jax.lax.cond(index % 2 == 0, near, mix(steps), q, k, v)
