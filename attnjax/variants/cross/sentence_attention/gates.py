"""The functions: the gate of a sentence, a gated map, and its product with a kernel."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import check_known, check_options
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.sentence_attention import definition

IMPLEMENTATIONS = ("reference", "xla")
GATES = ("softmax", "sigmoid", "softmax_scaled")
EPSILON = 1e-5  # added to the variance of the layer norm


def attend(
  x: Float[Array, "B H W C"],
  sentence: Float[Array, "_ E"],
  inner: Float[Array, "..."],
  inner_bias: Float[Array, "..."],
  gain: Float[Array, "..."],
  shift: Float[Array, "..."],
  outer: Float[Array, "..."],
  outer_bias: Float[Array, "..."],
  *,
  gate: str = "softmax",
  impl: str = "auto",
) -> Float[Array, "B H W C"]:
  """Computes x times the gate of its sentence, one for all pixels.

  arXiv:2309.11593, sentence attention block. The gate is computed in float32.

  Args:
    x: the maps.
    sentence: a vector a map.
    inner: (E, M), as all weights those of `channel_gate`.
    inner_bias: (M,).
    gain: (M,).
    shift: (M,).
    outer: (M, C).
    outer_bias: (C,).
    gate: one of GATES.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or an option is unknown.
  """
  weights = inner, inner_bias, gain, shift, outer, outer_bias
  _check(sentence, weights, gate, impl)
  if len(sentence) != len(x):
    raise ValueError(f"{len(sentence)} sentences and {len(x)} maps: one a map")
  _check_gate(x, (x.shape[0], outer.shape[1]))
  if impl == "reference":
    return definition.reference(x, sentence, *weights, gate=gate)
  return gated(x, _gate(sentence, weights, gate))


def channel_gate(
  sentence: Float[Array, "B E"],
  inner: Float[Array, "..."],
  inner_bias: Float[Array, "..."],
  gain: Float[Array, "..."],
  shift: Float[Array, "..."],
  outer: Float[Array, "..."],
  outer_bias: Float[Array, "..."],
  *,
  gate: str = "softmax",
  impl: str = "auto",
) -> Float[Array, "B C"]:
  """Computes the gate of channels of each sentence, in float32 (float64 for float64).

  It is kind(relu(norm(sentence inner + inner_bias)) outer + outer_bias), with a layer
  norm of the M numbers of one sentence.

  Args:
    sentence: the vectors.
    inner: (E, M), to the numbers inside.
    inner_bias: (M,), added to them.
    gain: (M,), of the layer norm.
    shift: (M,), of the layer norm.
    outer: (M, C), to the channels.
    outer_bias: (C,), added to them.
    gate: "softmax", over the channels; "softmax_scaled", C times as much; "sigmoid".
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or an option is unknown.
  """
  weights = inner, inner_bias, gain, shift, outer, outer_bias
  _check(sentence, weights, gate, impl)
  if impl == "reference":
    return definition.reference_channel_gate(sentence, *weights, gate=gate)
  return _gate(sentence, weights, gate)


def project(
  x: Float[Array, "B H W C"],
  gate: Float[Array, "..."],
  kernel: Float[Array, "..."],
  *,
  impl: str = "auto",
) -> Float[Array, "B H W D"]:
  """Computes the 1 x 1 convolution of a gated map, (x gate) kernel = x (gate kernel).

  "xla" makes a kernel for each sentence, and no gated map.

  Args:
    x: the maps.
    gate: (B, C), of `channel_gate`.
    kernel: (C, D), of the convolution.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check_gate(x, gate.shape)
  if kernel.shape[0] != x.shape[3]:
    raise ValueError(f"kernel {kernel.shape} of x {x.shape}: it is (C, D)")
  if impl == "reference":
    return definition.reference_project(x, gate, kernel)
  wide = accumulator_dtype(x)
  kernels = gate.astype(wide)[..., None] * kernel.astype(wide)[None]
  y = jnp.einsum("bhwc,bcd->bhwd", x.astype(wide), kernels)
  return y.astype(x.dtype)


def gated(x: Float[Array, "B *S C"], gate: Float[Array, "B C"]) -> Array:
  """Computes x times a gate of channels, in the gate's type, as the type of x."""
  own = gate.reshape(gate.shape[0], *(1,) * (x.ndim - 2), gate.shape[1])
  return (x.astype(gate.dtype) * own).astype(x.dtype)


# Recomputed in the backward pass, which else keeps the numbers inside.
def _gate(sentence, weights, gate):
  @jax.checkpoint
  def run(sentence, weights):
    wide = accumulator_dtype(sentence)
    inner, inner_bias, gain, shift, outer, outer_bias = (
      w.astype(wide) for w in weights
    )
    h = sentence.astype(wide) @ inner + inner_bias[None]
    far = h - h.mean(axis=-1, keepdims=True)
    variance = jnp.square(far).mean(axis=-1, keepdims=True)
    h = gain[None] * far * jax.lax.rsqrt(variance + EPSILON) + shift[None]
    logits = jax.nn.relu(h) @ outer + outer_bias[None]
    if gate == "sigmoid":
      return jax.nn.sigmoid(logits)
    share = jax.nn.softmax(logits)
    return share * logits.shape[-1] if gate == "softmax_scaled" else share

  return run(sentence, weights)


def _check(sentence, weights, gate, impl) -> None:
  check_options(gate=(gate, GATES), impl=(impl, ("auto", *IMPLEMENTATIONS)))
  names = "inner", "inner_bias", "gain", "shift", "outer", "outer_bias"
  given: Mapping[str, tuple] = {n: w.shape for n, w in zip(names, weights)}
  E, M, C = sentence.shape[-1], given["inner"][-1], given["outer"][-1]
  line = dict.fromkeys(("inner_bias", "gain", "shift"), (M,))
  want = {"inner": (E, M), "outer": (M, C), "outer_bias": (C,)} | line
  for name, shape in given.items():
    if shape != want[name]:
      raise ValueError(
        f"{name} has the shape {shape}; with a sentence {sentence.shape}, {M} numbers"
        f" inside and {C} channels it must be {want[name]}"
      )


def _check_gate(x, shape) -> None:
  if shape != (x.shape[0], x.shape[-1]):
    raise ValueError(f"a gate {shape} of x {x.shape}: it is (B, C)")
