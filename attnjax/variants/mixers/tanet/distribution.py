"""The block that normalises half of the channels over the whole image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.mixers.tanet import definition
from attnjax.variants.mixers.tanet.convolutions import along, convolve, leaky
from attnjax.variants.mixers.tanet.gates import IMPLEMENTATIONS

EPSILON = 1e-5  # added to variances


def distribution_block(
  x: Float[Array, "B H W C"],
  first: Float[Array, "..."],
  first_shift: Float[Array, "..."],
  gain: Float[Array, "..."],
  shift: Float[Array, "..."],
  second: Float[Array, "..."],
  second_shift: Float[Array, "..."],
  *,
  impl: str = "auto",
) -> Float[Array, "B H W C"]:
  """Computes x + leaky(second * leaky([norm(u1), u2])), [u1, u2] = first * x (GDA).

  * is a convolution; u1 and u2 are halves of the channels, u1 the smaller if C is odd.
  The norm is of each image and channel over its pixels: gain (u - mean) / sqrt(variance
  + 1e-5) + shift, with the mean square distance to the mean as variance.

  Args:
    x: the map.
    first: (k, k, C, C) with odd k, the first convolution.
    first_shift: (C,), added to it.
    gain: (C // 2,), of the norm.
    shift: (C // 2,), of the norm.
    second: (k, k, C, C) with odd k, the second convolution.
    second_shift: (C,), added to it.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  C = x.shape[3]
  weights = first, first_shift, gain, shift, second, second_shift
  sizes = [w.shape for w in weights]
  sides = first.shape[:2] + second.shape[:2]
  both, half = (C, C), (C // 2,)
  want = [(*sides[:2], *both), (C,), half, half, (*sides[2:], *both), (C,)]
  if sizes != want or not all(side % 2 for side in sides):
    raise ValueError(
      f"weights {sizes} of x {x.shape}: they are (k, k, C, C), (C,), (C // 2,),"
      " (C // 2,), (k, k, C, C), (C,), and k is odd"
    )
  if impl == "reference":
    return definition.reference_distribution_block(x, *weights)
  return _normalised(x, *weights)


# Recomputed in the backward pass, which else keeps four maps of the size of x.
@jax.checkpoint
def _normalised(x, *weights):
  wide = accumulator_dtype(x)
  first, first_shift, gain, shift, second, second_shift = (
    w.astype(wide) for w in weights
  )
  y = x.astype(wide)
  u = convolve(y, first) + along(first_shift, 4)
  normed, rest = jnp.split(u, gain.shape, axis=3)
  far = normed - normed.mean(axis=(1, 2), keepdims=True)
  variance = jnp.square(far).mean(axis=(1, 2), keepdims=True)
  normed = along(gain, 4) * far * jax.lax.rsqrt(variance + EPSILON) + along(shift, 4)
  u = leaky(jnp.concatenate([normed, rest], axis=3))
  return (y + leaky(convolve(u, second) + along(second_shift, 4))).astype(x.dtype)


def _case(name, *shape, k=3):
  C = shape[3]
  shapes = {"x": shape, "first_shift": (C,), "gain": (C // 2,), "shift": (C // 2,)}
  shapes |= {"second_shift": (C,)}

  def kernels(key):
    # Unit weights would make sums whose rounding is no longer small beside 1.
    drawn = jax.random.normal(key, (2, k, k, C, C)) / (k * C**0.5)
    return {"first": drawn[0], "second": drawn[1]}

  return Case(name, shapes, make=kernels, function="distribution_block")


CASES = (
  _case("halves", 2, 9, 12, 8),
  _case("one_pixel_of_two_channels", 1, 1, 1, 2),
  _case("odd_channels", 2, 65, 1, 3, k=5),
)
