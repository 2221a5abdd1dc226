"""The layer: projections and a table of biases around `attend`."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.variants.local.maxvit.attention import IMPLEMENTATIONS, KINDS, attend

FORMS = ("image",)
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Attention in windows or over a grid; x (B, R, C, D).

  Args:
    dim: D.
    form: "image".
    heads: N; D / H if 0.
    head_dim: H, which divides D; of no effect if `heads` are given: D / N.
    kind: "window", "grid", or "alternate": windows in layers of even index.
    window: rows and columns of a group, or one number for both.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 0,
    head_dim: int = 32,
    kind: str = "alternate",
    window: int | Sequence[int] = 7,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      kind=(kind, ("alternate", *KINDS)),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if heads:
      head_dim = projections.head_size(dim, heads)
    if dim % head_dim:
      raise ValueError(f"dim = {dim} does not divide by head_dim = {head_dim}")
    heads = dim // head_dim
    self.window = (window, window) if isinstance(window, int) else tuple(window)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, head_dim, bias=True, init=_INIT, rngs=rngs
    )
    shape = (*(2 * p - 1 for p in self.window), heads)
    self.bias_table = nnx.Param(_INIT(rngs.params(), shape))
    self.out = projections.output(
      heads, head_dim, dim, bias=True, init=_INIT, rngs=rngs
    )
    self.kind, self.impl = kind, impl

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the queries, keys and values of every token, on the grid of x."""
    tokens = contexts.accept(x, context, form="image")
    return Heads(*self.qkv.heads(tokens.x), tokens)

  def mix(self, heads: Heads) -> Float[Array, "B R C N E"]:
    """Returns `attend` of the heads; the layer's index chooses between the kinds."""
    q, k, v, index = heads.q, heads.k, heads.v, heads.tokens.index

    def run(kind):
      bias_table, window = self.bias_table[...], self.window
      given = {"bias_table": bias_table, "kind": kind, "window": window}
      return lambda *x: attend(*x, **given, impl=self.impl)

    if self.kind != "alternate":
      return run(self.kind)(q, k, v)
    if isinstance(index, int):
      return run(KINDS[index % 2])(q, k, v)
    return jax.lax.switch(jnp.mod(index, 2), [run(kind) for kind in KINDS], q, k, v)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B R C D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B R C D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)
