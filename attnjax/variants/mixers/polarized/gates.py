"""The functions: the two gates, and x times both; and what their arrays must be."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from attnjax.contract import check_known, check_options
from attnjax.variants.mixers.polarized import pooled
from attnjax.variants.mixers.polarized.definition import (
  reference,
  reference_channel_gate,
  reference_spatial_gate,
)

IMPLEMENTATIONS = ("reference", "xla")
# The arrays that the channel gate of a variant has beside query, value and `up`.
VARIANTS = {
  "paper": ("gain", "shift"),
  "code_p": (),
  "code_s": ("squeeze", "squeeze_bias", "gain", "shift", "up_bias"),
}
LAYOUTS = ("parallel", "sequential")


def attend(
  x: Float[Array, "B R C D"],
  channel_query: Float[Array, "..."],
  channel_value: Float[Array, "..."],
  up: Float[Array, "..."],
  spatial_query: Float[Array, "..."],
  spatial_value: Float[Array, "..."],
  *,
  variant: str = "paper",
  layout: str = "parallel",
  impl: str = "auto",
  **more: Float[Array, "..."] | None,
) -> Float[Array, "B R C D"]:
  """Computes x times the channel gate and the spatial gate, or the sum of both.

  arXiv:2107.00782, section 3. Softmaxes, means and gates are computed in float32.

  Args:
    x: the images.
    channel_query: (D,), `query` of `channel_gate`.
    channel_value: (D, F), its `value`.
    up: (F, D), or (G, D) in "code_s", its `up`.
    spatial_query: (D, F), `query` of `spatial_gate`.
    spatial_value: (D, F), its `value`.
    variant: one of VARIANTS.
    layout: "parallel", x by each gate and the sum; or "sequential", x by the channel
      gate, then by the spatial gate of that.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".
    **more: the other arrays of `channel_gate`, those that the variant has.

  Raises:
    ValueError: if shapes do not fit, an array is missing or is not the variant's, or
      an option is unknown.
  """
  check_known("layout", layout, LAYOUTS)
  channel, spatial = (channel_query, channel_value, up), (spatial_query, spatial_value)
  head = _channel_head(x, *channel, more, variant, impl, "channel_")
  _check_spatial(x, *spatial, variant, impl, "spatial_")
  if impl == "reference":
    options = {"variant": variant, "layout": layout}
    return reference(x, *channel, *spatial, **options, **head)
  return pooled.gated(x, channel, head, spatial, variant, layout)


def channel_gate(
  x: Float[Array, "B R C D"],
  query: Float[Array, "..."],
  value: Float[Array, "..."],
  up: Float[Array, "..."],
  *,
  squeeze: Float[Array, "..."] | None = None,
  squeeze_bias: Float[Array, "..."] | None = None,
  gain: Float[Array, "..."] | None = None,
  shift: Float[Array, "..."] | None = None,
  up_bias: Float[Array, "..."] | None = None,
  variant: str = "paper",
  impl: str = "auto",
) -> Float[Array, "B D"]:
  """Computes the gate of each channel, from values pooled by a softmax over places.

  Args:
    x: the images.
    query: (D,), whose products with x are the scores of the places.
    value: (D, F), from x to values.
    up: (F, D), from the pooled value to channels; (G, D) in "code_s".
    squeeze: (F, G), before it in "code_s".
    squeeze_bias: (G,), in "code_s".
    gain: of the layer norm: (D,) in "paper", (G,) in "code_s"; "code_p" has none.
    shift: of the layer norm, too.
    up_bias: (D,), in "code_s".
    variant: one of VARIANTS.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Returns:
    The gate, between 0 and 1, in float32 (float64 for float64).

  Raises:
    ValueError: if shapes do not fit, an array is missing or is not the variant's, or
      an option is unknown.
  """
  more = {
    "squeeze": squeeze,
    "squeeze_bias": squeeze_bias,
    "gain": gain,
    "shift": shift,
    "up_bias": up_bias,
  }
  head = _channel_head(x, query, value, up, more, variant, impl)
  if impl == "reference":
    return reference_channel_gate(x, query, value, up, variant=variant, **head)
  return pooled.channel_gate(x, (query, value, up), head, variant)


def spatial_gate(
  x: Float[Array, "B R C D"],
  query: Float[Array, "..."],
  value: Float[Array, "..."],
  *,
  variant: str = "paper",
  impl: str = "auto",
) -> Float[Array, "B R C"]:
  """Computes the gate of each place, its value against the mean of all queries.

  Args:
    x: the images.
    query: (D, F), from x to queries.
    value: (D, F), from x to values.
    variant: one of VARIANTS.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Returns:
    The gate, between 0 and 1, in float32 (float64 for float64).

  Raises:
    ValueError: if shapes do not fit or an option is unknown.
  """
  _check_spatial(x, query, value, variant, impl)
  if impl == "reference":
    return reference_spatial_gate(x, query, value, variant=variant)
  return pooled.spatial_gate(x, (query, value), variant)


def _channel_head(
  x,
  query,
  value,
  up,
  more: Mapping[str, Any],
  variant: str,
  impl: str,
  prefix: str = "",
) -> dict[str, Array]:
  """Returns the other arrays of the variant's channel gate, if all shapes fit."""
  check_options(variant=(variant, VARIANTS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
  given = {name: array for name, array in more.items() if array is not None}
  if set(given) != set(VARIANTS[variant]):
    raise ValueError(
      f"arrays {sorted(given)}: the channel gate of {variant!r} takes"
      f" {sorted(VARIANTS[variant])} beside query, value and up"
    )
  D, F, G = x.shape[-1], value.shape[-1], up.shape[0]
  deep = variant == "code_s"
  inner = G if deep else D
  want = {"squeeze": (F, G), "squeeze_bias": (G,), "up_bias": (D,)}
  want |= {"gain": (inner,), "shift": (inner,), "up": (inner if deep else F, D)}
  want |= {f"{prefix}query": (D,), f"{prefix}value": (D, F)}
  arrays = {f"{prefix}query": query, f"{prefix}value": value, "up": up} | given
  _check_shapes(x, arrays, want)
  return given


def _check_spatial(x, query, value, variant: str, impl: str, prefix: str = "") -> None:
  check_options(variant=(variant, VARIANTS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
  arrays = {f"{prefix}query": query, f"{prefix}value": value}
  want = x.shape[-1], value.shape[-1]
  _check_shapes(x, arrays, dict.fromkeys(arrays, want))


def _check_shapes(x, arrays: Mapping[str, Array], want: Mapping[str, tuple]) -> None:
  for name, array in arrays.items():
    if array.shape != want[name]:
      raise ValueError(
        f"{name} has the shape {array.shape}; with x {x.shape} it must be {want[name]}"
      )
