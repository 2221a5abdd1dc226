"""The two factors of a weight: features of queries and keys, and the bias of a lag.

w is (M, H) or (N, M, H), and None for features that need none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import random_features
from attnjax.core.dtypes import accumulator_dtype

# The feature maps that need w, and those of x alone.
FEATURES = (*random_features.KINDS, "elu", "relu")


def units(x: Float[Array, "*B N H"]) -> Float[Array, "*B N H"]:
  """Returns x / |x|; a zero stays zero, with a finite gradient."""
  x = x.astype(accumulator_dtype(x))
  # Scaled by its largest element first, since squares would overflow or underflow.
  size = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True, initial=0))
  x = x / jnp.where(size > 0, size, 1)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.where(size > 0, square, 1))


def of(
  x: Float[Array, "*B N H"], w: Any, kind: str
) -> tuple[Float[Array, "*B N F"], Float[Array, "*B N"]]:
  """Returns (features, or their log if "positive"; the log of a factor of them all)."""
  x = x.astype(accumulator_dtype(x))
  nothing = jnp.zeros(x.shape[:-1], x.dtype)
  if kind == "positive":
    return random_features.logarithm(x, w), nothing
  if kind == "trigonometric":
    return random_features.trigonometric(x, w, scaled=False), jnp.square(x).sum(-1) / 2
  return (jax.nn.elu(x) + 1 if kind == "elu" else jax.nn.relu(x)), nothing


def table(
  bias: Float[Array, "N *L"] | None, heads: int, axes: int, causal: bool
) -> Float[Array, "N *L"]:
  """Returns log c for the lags of the bias, 2 D - 1 an axis; -inf for unseen lags."""
  bias = jnp.zeros((heads, *(1,) * axes)) if bias is None else bias
  bias = bias.astype(accumulator_dtype(bias))
  if causal:
    D = (bias.shape[1] + 1) // 2
    bias = jnp.where(jnp.arange(bias.shape[1]) < D, bias, -jnp.inf)
  return bias


def spread(
  c: Float[Array, "N *L"], grid: tuple[int, ...], causal: bool
) -> Float[Array, "N *S"]:
  """Returns log c for all 2 T - 1 lags an axis; farther lags repeat the farthest."""
  for axis, T in enumerate(grid, 1):
    D = (c.shape[axis] + 1) // 2
    if T > D:
      widths = [(0, 0)] * c.ndim
      widths[axis] = (T - D, T - D)
      c = jnp.pad(c, widths, mode="edge")
      if causal:  # D = 1 has no later lag whose -inf could be repeated
        c = jnp.where(jnp.arange(c.shape[axis]) < T, c, -jnp.inf)
    else:
      c = jax.lax.slice_in_dim(c, D - T, D + T - 1, axis=axis)
  return c
