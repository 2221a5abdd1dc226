"""Short causal depthwise convolutions over tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvolutionCache:
  """The decoding cache of a short convolution, its last width - 1 inputs.

  Attributes:
    x: (B, width - 1, D).
    segment_ids: int32, (B, width - 1), -1 before the first token.
  """

  x: Any
  segment_ids: Any


class ShortConvolution(nnx.Module):
  """Depthwise causal convolution over tokens: y[t] = sum_i kernel[i] x[t - i].

  A token sees only tokens of its own segment. It starts as the identity plus noise.
  """

  def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs):
    if width < 1:
      raise ValueError(f"width = {width} of a convolution; it must be 1 or more")
    noise = 0.02 * jax.random.normal(rngs.params(), (width, dim))
    self.kernel = nnx.Param(noise.at[0].add(1.0))

  def __call__(
    self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None
  ) -> Float[Array, "B T D"]:
    """Returns the convolved sequence."""
    return self.step(x, self.init_cache(x.shape[0], x.dtype), segment_ids)[0]

  def init_cache(self, batch: int, dtype=jnp.float32) -> ConvolutionCache:
    """Returns the cache before the first token."""
    width, dim = self.kernel.shape
    return ConvolutionCache(
      jnp.zeros((batch, width - 1, dim), dtype),
      jnp.full((batch, width - 1), -1, jnp.int32),
    )

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: ConvolutionCache,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], ConvolutionCache]:
    """Convolves the next T tokens; returns them and the cache after them."""
    B, T, _ = x.shape
    kernel, width = self.kernel[...], self.kernel.shape[0]
    if segment_ids is None:
      segment_ids = jnp.zeros((B, T), jnp.int32)
    past = jnp.concatenate([cache.x.astype(x.dtype), x], axis=1)
    ids = jnp.concatenate([cache.segment_ids, segment_ids], axis=1)
    y = jnp.zeros_like(x)
    for i in range(width):
      start = width - 1 - i
      same = (ids[:, start : start + T] == segment_ids) & (segment_ids >= 0)
      y += jnp.where(same[..., None], past[:, start : start + T], 0) * kernel[i]
    return y, ConvolutionCache(past[:, T:], ids[:, T:])
