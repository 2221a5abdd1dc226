"""The layer: the triplet attention block (TAB), with the modules of its gates."""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.variants.mixers.tanet.convolutions import Convolution, leaky
from attnjax.variants.mixers.tanet.distribution import distribution_block
from attnjax.variants.mixers.tanet.gates import (
  IMPLEMENTATIONS,
  pixel_gate,
  strip_gate,
)

FORMS = ("image",)
LEAST = 4  # channels: half of them in a branch, and half of these in the strips


class StripGate(nnx.Module):
  """`strip_gate` with its weights; x (B, H, W, dim), strips of dim // 2 channels."""

  def __init__(self, dim: int, *, impl: str = "auto", rngs: nnx.Rngs):
    middle = dim // 2
    self.rows = Convolution(dim, middle, (3, 1), rngs=rngs)
    self.columns = Convolution(dim, middle, (1, 3), rngs=rngs)
    self.inner = Convolution(middle, middle, 1, rngs=rngs)
    self.outer = Convolution(middle, dim, 1, rngs=rngs)
    self.impl = impl

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Returns the gated map."""
    weights = (
      *(self.rows.kernel[:, 0], self.rows.bias[...]),
      *(self.columns.kernel[0], self.columns.bias[...]),
      *(self.inner.kernel[0, 0], self.inner.bias[...]),
      *(self.outer.kernel[0, 0], self.outer.bias[...]),
    )
    return strip_gate(x, *weights, impl=self.impl)


class PixelGate(nnx.Module):
  """`pixel_gate` with its weights, a kernel of `size` x `size`."""

  def __init__(
    self, size: int, *, lpa_multiply: bool = False, impl: str = "auto", rngs: nnx.Rngs
  ):
    if size < 1 or not size % 2:
      raise ValueError(f"lpa_kernel = {size}: it must be odd and positive")
    self.convolve = Convolution(2, 1, size, rngs=rngs)
    self.options = {"lpa_multiply": lpa_multiply, "impl": impl}

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Returns the gate of each pixel for all channels, or x times it."""
    kernel, shift = self.convolve.kernel[..., 0], self.convolve.bias[0]
    return pixel_gate(x, kernel, shift, **self.options)


class DistributionBlock(nnx.Module):
  """`distribution_block` with its weights, kernels of 3 x 3."""

  def __init__(self, dim: int, *, impl: str = "auto", rngs: nnx.Rngs):
    self.first = Convolution(dim, dim, 3, rngs=rngs)
    self.scale = nnx.Param(jnp.ones(dim // 2))
    self.bias = nnx.Param(jnp.zeros(dim // 2))
    self.second = Convolution(dim, dim, 3, rngs=rngs)
    self.impl = impl

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Returns the map with the block's result added."""
    first, second = (
      (part.kernel[...], part.bias[...]) for part in (self.first, self.second)
    )
    weights = *first, self.scale[...], self.bias[...], *second
    return distribution_block(x, *weights, impl=self.impl)


class Layer(nnx.Module):
  """The triplet attention block; x (B, H, W, D), its residual inside.

  Args:
    dim: D, 4 or more.
    form: "image".
    lpa_kernel: side of the pixels' windows, odd.
    lpa_multiply: as in `pixel_gate`.
    impl: as in `strip_gate`, for all three gates.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    lpa_kernel: int = 7,
    lpa_multiply: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if dim < LEAST:
      raise ValueError(f"dim = {dim}: it must be at least {LEAST}")
    half = dim // 2
    self.enter = Convolution(dim, dim, 3, rngs=rngs)
    self.turn = Convolution(dim, dim, 1, rngs=rngs)
    self.to_strips = Convolution(dim, half, 3, rngs=rngs)
    self.to_pixels = Convolution(dim, half, 3, rngs=rngs)
    self.to_plain = Convolution(dim, half, 1, rngs=rngs)
    self.strips = StripGate(half, impl=impl, rngs=rngs)
    self.pixels = PixelGate(lpa_kernel, lpa_multiply=lpa_multiply, impl=impl, rngs=rngs)
    self.fuse = Convolution(3 * half, dim, 1, rngs=rngs)
    self.smooth = Convolution(dim, dim, 3, rngs=rngs)
    self.distribution = DistributionBlock(dim, impl=impl, rngs=rngs)
    self.skip = Convolution(dim, dim, 1, rngs=rngs)
    self.form = form

  def project(self, x: Float[Array, "B H W D"], **context: Unpack[Context]) -> Heads:
    """Returns three heads of D // 2 channels as values: for strips, pixels, neither."""
    tokens = contexts.accept(x, context, form=self.form)
    t = leaky(self.turn(leaky(self.enter(tokens.x))))
    parts = self.to_strips, self.to_pixels, self.to_plain
    return Heads(None, None, jnp.stack([leaky(f(t)) for f in parts], axis=3), tokens)

  def mix(self, heads: Heads) -> Float[Array, "B H W 3 E"]:
    """Returns `strip_gate` of the first head, `pixel_gate` of the second, the third."""
    first, second, third = (heads.v[..., i, :] for i in range(3))
    return jnp.stack([self.strips(first), self.pixels(second), third], axis=3)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B H W D"]:
    """Returns f + `distribution_block` of f, the fused heads, plus a map of x."""
    x = heads.tokens.x
    rows = out.reshape(*out.shape[:3], -1)
    f = leaky(self.smooth(leaky(self.fuse(rows)))) + x
    return (f + self.distribution(f) + self.skip(x)).astype(x.dtype)

  def __call__(
    self, x: Float[Array, "B H W D"], **context: Unpack[Context]
  ) -> Float[Array, "B H W D"]:
    """Returns the block's output; see `attnjax.contract.forms.image`."""
    return contexts.run(self, x, context)

  def weights(self, x: Float[Array, "B H W D"], **context: Unpack[Context]) -> Array:
    """Raises an error: there are no weights.

    Raises:
      NotImplementedError: always.
    """
    del x, context
    raise NotImplementedError(
      "gates have no weights: a pixel multiplies its own value by what it reads"
    )
