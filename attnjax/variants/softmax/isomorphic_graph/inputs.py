"""The projections of GIN-attention, whose values are the layer's input itself."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from attnjax.core import positions as rotary
from attnjax.nn import projections

_INIT = nnx.initializers.normal(0.02)


class OwnValues(nnx.Module):
  """Rotated queries and keys of x (B, T, D), and x in heads as the values.

  With `second` two queries and two keys of a head stand beside each other, (B, T, N,
  2 H), so that a cache holds both keys.
  """

  def __init__(
    self, dim: int, heads: int, *, second: bool, rope_theta: float, rngs: nnx.Rngs
  ):
    size = projections.head_size(dim, heads)

    def project():
      return nnx.LinearGeneral(
        dim, (heads, size), use_bias=False, kernel_init=_INIT, rngs=rngs
      )

    self.query, self.key = project(), project()
    self.second_query = project() if second else None
    self.second_key = project() if second else None
    self.heads, self.rope_theta = heads, rope_theta

  def __call__(
    self, x: Float[Array, "B T D"], positions: Num[Array, "..."]
  ) -> tuple[Array, Array, Array]:
    """Returns q, k and v; positions (B, T) or (T,)."""

    def turned(*maps):
      found = [f(x) for f in maps if f is not None]
      if self.rope_theta:
        found = [rotary.rotate(y, positions, theta=self.rope_theta) for y in found]
      return jnp.concatenate(found, axis=-1)

    q = turned(self.query, self.second_query)
    k = turned(self.key, self.second_key)
    return q, k, x.reshape(*x.shape[:2], self.heads, -1)
