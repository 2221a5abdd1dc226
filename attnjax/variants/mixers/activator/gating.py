"""The function: two branches, normalised alike, and their product; and its cases."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.mixers.activator.definition import reference

IMPLEMENTATIONS = ("reference", "xla")
EPSILON = 1e-5  # added to variances
ACTIVATIONS = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "silu": jax.nn.silu,
  "relu": jax.nn.relu,
}


def gate(
  u: Float[Array, "*B F"],
  v: Float[Array, "..."],
  gain: Float[Array, "..."],
  shift: Float[Array, "..."],
  *,
  activation: str = "gelu",
  impl: str = "auto",
) -> Float[Array, "*B F"]:
  """Computes norm(activation(u)) * norm(v), both by the same gain and shift.

  arXiv:2405.15953, section 3. A norm is over F: y = gain (x - mean) / sqrt(variance +
  1e-5) + shift, with the mean square distance to the mean as variance.

  Args:
    u: the branch with the activation, which comes before the norm.
    v: (*B, F), the branch without one.
    gain: (F,), of both norms.
    shift: (F,), of both norms.
    activation: one of ACTIVATIONS; "gelu" is the exact one.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit, or `activation` or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  check_known("activation", activation, ACTIVATIONS)
  F = u.shape[-1:]
  if u.shape != v.shape or not gain.shape == shift.shape == F:
    raise ValueError(
      f"u {u.shape}, v {v.shape}, gain {gain.shape}, shift {shift.shape}: u and v are"
      " alike, gain and shift are (F,)"
    )
  if impl == "reference":
    return reference(u, v, gain, shift, activation=activation)
  return _gated(u, v, gain, shift, activation)


# Recomputed in the backward pass, which else keeps seven arrays of the size of u.
@functools.partial(jax.checkpoint, static_argnums=(4,))
def _gated(u, v, gain, shift, activation):
  wide = accumulator_dtype(u)
  active = ACTIVATIONS[activation](u.astype(wide))
  both = jnp.stack([active, v.astype(wide)])
  mean = both.mean(axis=-1, keepdims=True)
  far = both - mean
  variance = jnp.square(far).mean(axis=-1, keepdims=True)
  one, other = far * jax.lax.rsqrt(variance + EPSILON)
  gain, shift = (
    x.astype(wide).reshape((1,) * (u.ndim - 1) + x.shape) for x in (gain, shift)
  )
  return ((gain * one + shift) * (gain * other + shift)).astype(v.dtype)


def _shapes(*shape):
  return {"u": shape, "v": shape, "gain": shape[-1:], "shift": shape[-1:]}


def _case(name, *shape, **options):
  return Case(name, _shapes(*shape), options, function="gate")


CASES = (
  _case("tokens", 2, 7, 12),
  _case("one_token", 1, 1, 65),
  _case("grid", 1, 3, 5, 1, 8, activation="silu"),
  _case("relu", 63, 6, activation="relu"),
  _case("one_channel", 2, 3, 1),
)
