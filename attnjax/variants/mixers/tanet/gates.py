"""The two gates of pixels: by strips of rows and columns, and by a window."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.mixers.tanet import definition
from attnjax.variants.mixers.tanet.convolutions import along, convolve

IMPLEMENTATIONS = ("reference", "xla")


def strip_gate(
  x: Float[Array, "B H W C"],
  row_kernel: Float[Array, "..."],
  row_shift: Float[Array, "..."],
  column_kernel: Float[Array, "..."],
  column_shift: Float[Array, "..."],
  inner: Float[Array, "..."],
  inner_shift: Float[Array, "..."],
  outer: Float[Array, "..."],
  outer_shift: Float[Array, "..."],
  *,
  impl: str = "auto",
) -> Float[Array, "B H W C"]:
  """Multiplies a map by gates that its rows and columns open (GSA).

  With r the means of the rows, s those of the columns, both convolved along
  themselves: x sigmoid(relu((r + s) inner + inner_shift) outer + outer_shift).

  Args:
    x: the map.
    row_kernel: (k, C, M) with odd k, over the H means of rows.
    row_shift: (M,), added to them.
    column_kernel: (k, C, M) with odd k, over the W means of columns.
    column_shift: (M,), added to them.
    inner: (M, M).
    inner_shift: (M,).
    outer: (M, C).
    outer_shift: (C,).
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  (C,), M = x.shape[3:], inner.shape[-1]
  weights = row_kernel, row_shift, column_kernel, column_shift
  weights = *weights, inner, inner_shift, outer, outer_shift
  ends = (C, M), (M,), (C, M), (M,), (M, M), (M,), (M, C), (C,)
  found = [w.shape[1:] if i in (0, 2) else w.shape for i, w in enumerate(weights)]
  if tuple(found) != ends or not row_kernel.shape[0] % 2 * column_kernel.shape[0] % 2:
    raise ValueError(
      f"weights {[w.shape for w in weights]} of x {x.shape}: they are (k, C, M), (M,),"
      " (k, C, M), (M,), (M, M), (M,), (M, C), (C,), and k is odd"
    )
  if impl == "reference":
    return definition.reference_strip_gate(x, *weights)
  return _by_strips(x, *weights)


# Recomputed in the backward pass, which else keeps the gates and the hidden map.
@jax.checkpoint
def _by_strips(x, row_kernel, row_shift, column_kernel, column_shift, *mixed):
  wide = accumulator_dtype(x)
  inner, inner_shift, outer, outer_shift = (w.astype(wide) for w in mixed)
  y = x.astype(wide)
  strips = []
  for axis, kernel, shift in (
    (2, row_kernel, row_shift),
    (1, column_kernel, column_shift),
  ):
    across = jnp.expand_dims(kernel.astype(wide), axis - 1)
    strip = convolve(y.mean(axis=axis, keepdims=True), across)
    strip += along(shift.astype(wide), 4)
    # A linear map of a sum: it is taken of H + W strips, and not of H W pixels.
    strips.append(jnp.einsum("bhwm,mn->bhwn", strip, inner))
  hidden = strips[0] + strips[1] + along(inner_shift, 4)
  score = jnp.einsum("bhwm,mc->bhwc", jax.nn.relu(hidden), outer)
  gate = jax.nn.sigmoid(score + along(outer_shift, 4))
  return (y * gate).astype(x.dtype)


def pixel_gate(
  x: Float[Array, "B H W C"],
  kernel: Float[Array, "..."],
  shift: Float[Array, ""],
  *,
  lpa_multiply: bool = False,
  impl: str = "auto",
) -> Float[Array, "B H W C"]:
  """Computes a gate for each pixel from the window around it (LPA).

  sigmoid of the convolution of two maps, the largest channel and the mean channel.

  Args:
    x: the map.
    kernel: (k, k, 2) with odd k: of the largest channel, of the mean.
    shift: a number, added to the convolution.
    lpa_multiply: whether the gate multiplies x; in the official code the gate itself is
      the result, repeated for all channels.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  side = kernel.shape[0]
  if kernel.shape != (side, side, 2) or not side % 2 or shift.shape:
    raise ValueError(
      f"kernel {kernel.shape}, shift {shift.shape}: they are (k, k, 2) with odd k, and"
      " a number"
    )
  if impl == "reference":
    return definition.reference_pixel_gate(x, kernel, shift, lpa_multiply=lpa_multiply)
  wide = accumulator_dtype(x)
  y = x.astype(wide)
  pooled = jnp.stack([y.max(axis=3), y.mean(axis=3)], axis=3)
  score = convolve(pooled, kernel.astype(wide)[..., None]) + shift.astype(wide)
  gate = jax.nn.sigmoid(score)
  return (y * gate if lpa_multiply else jnp.broadcast_to(gate, x.shape)).astype(x.dtype)


def _strips(name, B, H, W, C, M, k=3):
  shapes = {"x": (B, H, W, C)}
  for strip in ("row", "column"):
    shapes |= {f"{strip}_kernel": (k, C, M), f"{strip}_shift": (M,)}
  shapes |= {"inner": (M, M), "inner_shift": (M,), "outer": (M, C), "outer_shift": (C,)}
  return Case(name, shapes, function="strip_gate")


def _pixels(name, k, *shape, **options):
  shapes = {"x": shape, "kernel": (k, k, 2), "shift": ()}
  return Case(name, shapes, options, function="pixel_gate")


CASES = (
  _strips("strips", 2, 7, 12, 8, 4),
  _strips("strips_of_one_pixel", 1, 1, 1, 3, 1),
  _strips("strips_longer_than_the_map", 1, 63, 2, 1, 2, 5),
  _pixels("pixels", 7, 2, 9, 12, 8),
  _pixels("one_pixel", 7, 1, 1, 1, 1),
  _pixels("window_over_the_map", 9, 1, 3, 65, 5, lpa_multiply=True),
)
