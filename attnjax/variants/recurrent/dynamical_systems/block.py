"""The benchmark's residual block, whose halves share a norm."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract.context import Context
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn.linear import linear
from attnjax.variants.recurrent.dynamical_systems.layer import Layer


class Block(nnx.Module):
  """A mixer and an MLP with one LayerNorm; the first skip has a learned scale.

    h = skip x + mixer(norm x);  y = h + W_down gelu(W_up norm h)

  Args:
    dim: D.
    hidden: width of the MLP; 2 dim if 0.
    rngs: for the parameters.
    **options: of the mixer, as in `Layer`.
  """

  def __init__(self, dim: int, *, hidden: int = 0, rngs: nnx.Rngs, **options):
    hidden = hidden or 2 * dim
    self.norm = nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
    self.mixer = Layer(dim, rngs=rngs, **options)
    self.skip = nnx.Param(jnp.ones(1))
    self.up = linear(dim, hidden, rngs=rngs)
    self.down = linear(hidden, dim, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the block's output; `context` goes to the mixer."""
    return self._feed(x, self.mixer(self.norm(x), **context))

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Returns the mixer's empty cache."""
    return self.mixer.init_cache(batch, length, dtype)

  def step(
    self, x: Float[Array, "B T D"], cache: Any, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    y, cache = self.mixer.step(self.norm(x), cache, **context)
    return self._feed(x, y), cache

  def _feed(self, x, y):
    """Returns both sums of the block, given the mixer's output."""
    dtype = accumulator_dtype(x)
    h = self.skip[...].astype(dtype) * x.astype(dtype) + y.astype(dtype)
    h = h.astype(x.dtype)
    return h + self.down(jax.nn.gelu(self.up(self.norm(h)), approximate=False))
