"""Adaptive layer norms: the time of the diffusion shifts, scales and gates tokens."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

FEATURES, TICKS = 256, 1000.0
_INIT = nnx.initializers.normal(0.02)
# Shift, scale and gate, (B, 1, D) each.
Triple = tuple[Array, Array, Array]


def linear(below: int, dim: int, rngs: nnx.Rngs) -> nnx.Linear:
  """Returns a linear map without a bias."""
  return nnx.Linear(below, dim, use_bias=False, kernel_init=_INIT, rngs=rngs)


class TimeEmbedding(nnx.Module):
  """A number in [0, 1], as 128 cosines and sines and then an MLP: (B,) to (B, D)."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.enter, self.leave = linear(FEATURES, dim, rngs), linear(dim, dim, rngs)

  def __call__(self, time: Float[Array, "B"]) -> Float[Array, "B D"]:
    """Returns the embedding of each number."""
    half = FEATURES // 2
    rate = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = TICKS * time[:, None] * rate
    waves = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return self.leave(jax.nn.silu(self.enter(waves)))


class Modulation(nnx.Module):
  """The shift, scale and gate of `parts` parts of a block, linear in silu(time).

  Args:
    dim: D.
    parts: 2 for attention and an MLP one after the other, 1 side by side.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, parts: int, *, rngs: nnx.Rngs):
    self.project, self.parts = linear(dim, 3 * parts * dim, rngs), parts

  def __call__(self, time: Float[Array, "B D"]) -> list[Triple]:
    """Returns (shift, scale, gate) for each part."""
    found = jnp.split(self.project(jax.nn.silu(time))[:, None], 3 * self.parts, axis=-1)
    return [(found[i], found[i + 1], found[i + 2]) for i in range(0, len(found), 3)]


class Last(nnx.Module):
  """norm(x) (1 + scale) + shift, both linear in silu(time), projected to patches."""

  def __init__(self, dim: int, channels: int, *, rngs: nnx.Rngs):
    self.modulate = linear(dim, 2 * dim, rngs)
    self.project = linear(dim, channels, rngs)

  def __call__(
    self, x: Float[Array, "B T D"], time: Float[Array, "B D"]
  ) -> Float[Array, "B T C"]:
    """Returns the patches of tokens."""
    scale, shift = jnp.split(self.modulate(jax.nn.silu(time))[:, None], 2, axis=-1)
    return self.project(norm(x) * (1 + scale) + shift)


def norm(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
  """Computes a layer norm without parameters, in float32."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  wide = wide - wide.mean(-1, keepdims=True)
  variance = jnp.square(wide).mean(-1, keepdims=True)
  return (wide * jax.lax.rsqrt(variance + 1e-6)).astype(x.dtype)
