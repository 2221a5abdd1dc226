"""Linearized relative positions: rotations that each head's channels learn."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num


class LRPE(nnx.Module):
  """x, turned by an angle for each channel: the product with a key reads distances.

    lrpe(q, t) . lrpe(k, s) = sum_c q[c] k[c] cos((t - s) theta[n, c])

  Zhen Qin et al. Linearized Relative Positional Encoding. arXiv:2307.09270. With the
  decay of linear attention it is the LRPE-d of TransNormerLLM. A real number turns in
  the plane, so that each channel becomes two, x cos(t theta) and x sin(t theta). The
  frequencies theta are parameters, base^(-2 i / (N H)) at first, i over all channels.

  Args:
    heads: N.
    size: H.
    base: of the frequencies at the start.
  """

  def __init__(self, heads: int, size: int, base: float):
    exponents = -2 * jnp.arange(heads * size) / (heads * size)
    self.theta = nnx.Param((base**exponents).reshape(heads, size))

  def __call__(
    self, x: Float[Array, "B T N H"], places: Num[Array, "T"]
  ) -> Float[Array, "B T N 2*H"]:
    """Returns the turned heads, the cosine parts of all channels first."""
    angle = places[:, None, None] * self.theta[...]
    y = jnp.concatenate([x * jnp.cos(angle), x * jnp.sin(angle)], axis=-1)
    return y.astype(x.dtype)
