"""Linear maps as the authors start them, and their convolution."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn.convolution import ShortConvolution

# Uniform within 1 / sqrt(inputs): normalised attention has no scale of its scores and
# explodes with anything larger.
INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def linear(
  inputs: int, outputs: int | tuple[int, ...], *, bias: bool = True, rngs: nnx.Rngs
) -> nnx.LinearGeneral:
  """A map of the last axis."""
  size = inputs**-0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -size, size)

  return nnx.LinearGeneral(
    inputs, outputs, use_bias=bias, kernel_init=INIT, bias_init=uniform, rngs=rngs
  )


class Convolution(nnx.Module):
  """A causal depth-wise convolution over tokens, with a bias."""

  def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs):
    self.taps = ShortConvolution(dim, width, rngs=rngs)
    self.bias = nnx.Param(jnp.zeros(dim))

  def init_cache(self, batch: int, dtype):
    """What is known before the first token: nothing."""
    return self.taps.init_cache(batch, dtype)

  def step(self, x: Float[Array, "B T D"], cache, segment_ids=None):
    """(y, cache): the next T tokens, those of other segments unseen."""
    y, cache = self.taps.step(x, cache, segment_ids)
    return y + self.bias[...].astype(y.dtype), cache


def log_spaced(key: jax.Array, size: int, least: float, most: float) -> Array:
  """(size,) numbers whose softplus is log-uniform between the two."""
  low, high = jnp.log(least), jnp.log(most)
  value = jnp.exp(jax.random.uniform(key, (size,), minval=low, maxval=high))
  return value + jnp.log(-jnp.expm1(-value))  # the inverse of softplus
