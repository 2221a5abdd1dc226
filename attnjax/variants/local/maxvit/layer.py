"""The layer: projections and a table of biases around `attend`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.nn import projections, unseen, windowed
from attnjax.variants.local.maxvit.attention import IMPLEMENTATIONS, KINDS, attend

FORMS = ("image",)
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Attention in windows or over a grid; x (B, R, C, D).

  Args:
    dim: D.
    form: "image".
    head_dim: H; it divides D.
    kind: "window", "grid", or "alternate": windows in layers of even index.
    size: rows and columns of a group, or one number for both.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    head_dim: int = 32,
    kind: str = "alternate",
    size: int | Sequence[int] = 7,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("kind", kind, ("alternate", *KINDS)),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if dim % head_dim:
      raise ValueError(f"dim = {dim} does not divide by head_dim = {head_dim}")
    heads = dim // head_dim
    self.size = (size, size) if isinstance(size, int) else tuple(size)
    self.project = projections.QueryKeyValue(
      dim, heads, heads, head_dim, bias=True, init=_INIT, rngs=rngs
    )
    shape = (heads, *(2 * p - 1 for p in self.size))
    self.table = nnx.Param(_INIT(rngs.params(), shape))
    self.out = projections.output(
      heads, head_dim, dim, bias=True, init=_INIT, rngs=rngs
    )
    self.kind, self.impl = kind, impl

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B R C D"]:
    """The same shape as x.

    Raises:
      NotImplementedError: for segments or padding; a map has none.
    """
    del positions
    if 0 in x.shape:
      return unseen.nothing(self, x)
    if not (segment_ids is None and padding is None):
      raise NotImplementedError("form 'image' takes no segment_ids and no padding")
    q, k, v = self._heads(x)
    return self.out(self._mix(q, k, v, index).astype(x.dtype))

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The softmax weights, (B, N, T, T) float32."""
    del segment_ids, padding, positions
    q, k, _ = self._heads(x)
    eye = windowed.identity(x.shape[1:3], x.shape[0], k.shape[-2])
    out = self._mix(q, k, eye, index)
    return out.reshape(x.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _heads(self, x):
    heads = self.project.heads(x.reshape(x.shape[0], -1, x.shape[-1]))
    return tuple(y.reshape(*x.shape[:-1], *y.shape[2:]) for y in heads)

  def _mix(self, q, k, v, index):
    def run(kind):
      table, size = self.table[...], self.size
      return lambda *x: attend(*x, table=table, kind=kind, size=size, impl=self.impl)

    if self.kind != "alternate":
      return run(self.kind)(q, k, v)
    if isinstance(index, int):
      return run(KINDS[index % 2])(q, k, v)
    return jax.lax.switch(jnp.mod(index, 2), [run(kind) for kind in KINDS], q, k, v)
