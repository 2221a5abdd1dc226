"""The paper's decoder block, whose graph has the residual stream as its nodes."""

from typing import Any, Unpack

from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract.context import Context
from attnjax.nn import mlp, unseen
from attnjax.variants.softmax.isomorphic_graph import sparse
from attnjax.variants.softmax.isomorphic_graph.graph import EPSILON
from attnjax.variants.softmax.isomorphic_graph.layer import Layer


class DecoderBlock(nnx.Module):
  """h = x + attention(norm x); g = h + adapter(h); y = g + mlp(norm g).

  Args:
    dim: D.
    hidden: width of the SwiGLU.
    rngs: for the parameters.
    **options: of `Layer`, whose kind is "sparse_gin".
  """

  def __init__(self, dim: int, *, hidden: int, rngs: nnx.Rngs, **options: Any):
    self.norm, self.mlp_norm = (
      nnx.RMSNorm(dim, epsilon=EPSILON, rngs=rngs) for _ in range(2)
    )
    self.attention = Layer(dim, kind="sparse_gin", rngs=rngs, **options)
    self.mlp = mlp.SwiGLU(dim, hidden, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the block's output; padding counts as 0, as in a stack of blocks."""
    x, _ = unseen.blank(x, context.get("segment_ids"), context.get("valid"))
    layer: Any = self.attention
    heads = layer.project(self.norm(x), **context)
    h = x + layer.out(layer.mix(heads).astype(x.dtype))
    found = layer.found(heads)

    def send(index, u):
      return sparse.sent(found, u)

    g = h + layer.adapter(h, send, heads.tokens.index)
    return g + self.mlp(self.mlp_norm(g))
