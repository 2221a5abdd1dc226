"""The causal convolution of the mixers, and rates that are drawn on a log scale."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn.convolution import ShortConvolution


class Convolution(nnx.Module):
  """A causal depth-wise convolution over tokens, with a bias."""

  def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs):
    self.taps = ShortConvolution(dim, width, rngs=rngs)
    self.bias = nnx.Param(jnp.zeros(dim))

  def init_cache(self, batch: int, dtype):
    """Returns the cache before the first token."""
    return self.taps.init_cache(batch, dtype)

  def step(self, x: Float[Array, "B T D"], cache, segment_ids=None):
    """Returns (y, cache) of the next T tokens; other segments are not seen."""
    y, cache = self.taps.step(x, cache, segment_ids)
    return y + self.bias[...].astype(y.dtype), cache


def log_spaced(key: jax.Array, size: int, least: float, most: float) -> Array:
  """Draws (size,) values whose softplus is log-uniform from `least` to `most`."""
  low, high = jnp.log(least), jnp.log(most)
  value = jnp.exp(jax.random.uniform(key, (size,), minval=low, maxval=high))
  return value + jnp.log(-jnp.expm1(-value))  # the inverse of softplus
