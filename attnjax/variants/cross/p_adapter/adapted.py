"""The adapter around a layer of any system that tells its weights."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax import contract
from attnjax.contract import context as contexts
from attnjax.nn import unseen
from attnjax.variants.cross.p_adapter.adapter import PAdapter
from attnjax.variants.cross.p_adapter.messages import p_laplacian_step


class Adapted(nnx.Module):
  """A layer with the p-Laplacian adapter of the kind "self" behind it.

  The layer has the three parts of `attnjax.contract.context`, and its weights
  (`contract.weights`), which are not negative, are the graph: (B, N, T, T) are stored.

  Args:
    layer: of any system, of the forms "causal", "sequence" or "image".
    dim: D.
    heads: N, as many as the layer's weights have.
    rngs: for the adapter's parameters.
    **options: of `PAdapter`.

  Raises:
    NotImplementedError: for a layer without the three parts.
  """

  def __init__(
    self, layer: Any, dim: int, *, heads: int, rngs: nnx.Rngs, **options: Any
  ):
    missing = [n for n in ("project", "mix", "merge") if not hasattr(layer, n)]
    if missing:
      raise NotImplementedError(
        f"{type(layer).__module__} has no {', '.join(missing)}: its values are unknown"
      )
    self.layer = layer
    self.adapter = PAdapter(dim, heads, **options, rngs=rngs)

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return getattr(self.layer, "refuses", contexts.NOTHING)

  def __call__(self, x: Float[Array, "B *T D"], **context: Any) -> Array:
    """Returns the layer's output and what the adapter adds, in the shape of x."""
    if 0 in x.shape:
      return unseen.nothing(self.layer, x)
    heads = self.layer.project(x, **context)
    c = self.layer.merge(self.layer.mix(heads), heads)
    graph = contract.weights(self.layer, x, **context)
    values = jnp.repeat(heads.v, graph.shape[1] // heads.v.shape[-2], axis=-2)
    nodes = self.layer.merge(values, heads)
    rows = (x.shape[0], -1, x.shape[-1])
    features = self.adapter.features(nodes.reshape(rows))
    message = p_laplacian_step(features, graph, None, *self.adapter.numbers())
    return c + self.adapter(c.reshape(rows), message).reshape(c.shape)
