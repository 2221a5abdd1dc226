"""Linear maps whose weights and biases are drawn as torch draws them."""

import jax
import jax.numpy as jnp
from flax import nnx

# Uniform within 1 / sqrt(inputs).
INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def linear(
  inputs: int, outputs: int | tuple[int, ...], *, bias: bool = True, rngs: nnx.Rngs
) -> nnx.LinearGeneral:
  """Returns a linear map of the last axis; its bias is drawn like its weights."""
  size = inputs**-0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -size, size)

  return nnx.LinearGeneral(
    inputs, outputs, use_bias=bias, kernel_init=INIT, bias_init=uniform, rngs=rngs
  )
