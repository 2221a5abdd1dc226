"""The loss: distances of pixels and of Fourier coefficients."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.mixers.tanet import definition
from attnjax.variants.mixers.tanet.gates import IMPLEMENTATIONS


def reconstruction(
  x: Float[Array, "B H W C"],
  y: Float[Array, "..."],
  *,
  weight: float = 0.03,
  epsilon: float = 1e-3,
  impl: str = "auto",
) -> Float[Array, ""]:
  """Computes mean sqrt((x - y)^2 + epsilon^2) + weight mean |F x - F y|, float32.

  F is the Fourier transform of each channel over its pixels, without a factor; |.| is
  of real and of imaginary parts, and its mean over both.

  Args:
    x: images, or maps.
    y: (B, H, W, C), what they should be; the loss is symmetric in both.
    weight: of the coefficients.
    epsilon: what the distance of equal pixels is.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes differ or are empty, or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if x.shape != y.shape or x.ndim != 4 or not x.size:
    raise ValueError(f"x {x.shape}, y {y.shape}: both are (B, H, W, C), and not empty")
  if impl == "reference":
    given = {"weight": weight, "epsilon": epsilon}
    return definition.reference_reconstruction(x, y, **given)
  wide = accumulator_dtype(x)
  far = x.astype(wide) - y.astype(wide)
  near = jnp.sqrt(jnp.square(far) + epsilon**2).mean()
  # Of real images one half of the coefficients says it all: those in between the first
  # column and, of an even number, the middle one count twice.
  coefficients = jnp.fft.rfft2(far, axes=(1, 2))
  times = np.full(coefficients.shape[2], 2)
  times[0] = 1
  if far.shape[2] % 2 == 0:
    times[-1] = 1
  parts = jnp.abs(coefficients.real) + jnp.abs(coefficients.imag)
  total = (parts.sum(axis=(0, 1, 3)) * times.astype(wide)).sum()
  return near + weight * total / (2 * far.size)


def _case(name, *shape, **options):
  return Case(name, {"x": shape, "y": shape}, options, function="reconstruction")


CASES = (
  _case("images", 2, 6, 8, 3),
  _case("odd_sides", 1, 7, 63, 2, weight=0.5),
  _case("one_pixel_of_an_image", 1, 1, 1, 1, epsilon=0.1),
)
