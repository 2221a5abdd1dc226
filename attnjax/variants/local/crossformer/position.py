"""A bias of relative positions that a small network predicts."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn.transformer import layer_norm

_INIT = nnx.initializers.truncated_normal(0.02)


class DynamicBias(nnx.Module):
  """The dynamic position bias: (dy, dx) to a number for each head.

    z = W0 (dy, dx);  three times z = W relu(norm z);  the last one to the heads

  It has no residuals, as in the official configurations, and its inputs are whole
  numbers of places, so that one network serves groups of any size.

  Args:
    width: of z.
    heads: N.
    axes: of the grid.
    rngs: for the parameters.
  """

  def __init__(self, width: int, heads: int, *, axes: int = 2, rngs: nnx.Rngs):
    if width < 1:
      raise ValueError(f"width = {width} of the position bias; it must be positive")
    sizes = ((axes, width), (width, width), (width, width), (width, heads))
    self.linears = nnx.List(
      nnx.Linear(*size, kernel_init=_INIT, rngs=rngs) for size in sizes
    )
    self.norms = nnx.List(layer_norm(width, rngs=rngs) for _ in range(3))
    self.axes = axes

  def __call__(self, window: int) -> Float[Array, "*R N"]:
    """Returns the `bias_table` of `attend` for groups of side `window`."""
    line = -jnp.arange(1 - window, window, dtype=jnp.float32)  # query less key
    z = jnp.stack(jnp.meshgrid(*[line] * self.axes, indexing="ij"), axis=-1)
    z = self.linears[0](z)
    for norm, linear in zip(self.norms, list(self.linears)[1:]):
      z = linear(jax.nn.relu(norm(z)))
    return z
