"""The learned factor of cosines before a softmax over pairs.

Alec Radford et al. Learning Transferable Visual Models From Natural Language
Supervision. 2021. arXiv:2103.00020, section 2.5: it begins at 1 / 0.07, and is kept
from exceeding 100.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

FIRST, MOST = math.log(1 / 0.07), math.log(100)


class Temperature(nnx.Module):
  """Holds the log of the factor; its call multiplies cosines by the factor."""

  def __init__(self):
    self.log_scale = nnx.Param(jnp.asarray(FIRST))

  def __call__(self, cosines: Float[Array, "*R"]) -> Float[Array, "*R"]:
    """Returns logits, in float32."""
    factor = jnp.exp(at_most(self.log_scale[...].astype(jnp.float32), MOST))
    return cosines.astype(jnp.float32) * factor


@jax.custom_jvp
def at_most(x: Float[Array, ""], most: Any) -> Float[Array, ""]:
  """Returns min(x, most) with the derivative 1.

  CLIP clamps after each update. A parameter that has passed the bound has to find back,
  which a derivative of 0 there would prevent.
  """
  return jnp.minimum(x, most)


@at_most.defjvp
def _slope(values, slopes):
  return at_most(*values), slopes[0]
